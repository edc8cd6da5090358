-- Links to a tenant's portal act as keys and people do: the audit log knows them as actors.
-- Locks: app.audit_log exclusively, for a moment: no row is read, since all keep to the narrower rule that
-- goes. Previous release: knows no links. A page of its audit log that holds what one did is answered 500
-- until all of the API runs this release; nothing else of it is disturbed.

alter table app.audit_log
    drop constraint audit_log_actor_kind_check,
    add constraint audit_log_actor_kind_check
        check (actor_kind in ('key', 'person', 'link', 'system', 'nobody')) not valid;
