-- The two runtime roles (DESIGN: data and isolation). They cannot log in: the login role is a member
-- of both, engine statements run with the rights of harkara_engine by inheritance, and every tenant
-- transaction narrows itself to harkara_app.
-- Locks: none that matter. Previous release: none.
-- Roles belong to the whole cluster, so two databases migrating at once may meet here: a role that
-- exists already, or a catalogue row being written by the other side, is retried.
do $$
declare
    wanted text;
    tries int := 0;
begin
    foreach wanted in array array['harkara_app', 'harkara_engine'] loop
        tries := 0;
        loop
            begin
                if not exists (select from pg_roles where rolname = wanted) then
                    execute format('create role %I nologin nobypassrls', wanted);
                end if;
                -- 'usage', not 'member': since PostgreSQL 16 a role's maker is a member that may
                -- neither inherit from it nor become it.
                if not pg_has_role(current_user, wanted, 'usage') then
                    execute format('grant %I to %I', wanted, current_user);
                end if;
                exit;
            exception when duplicate_object or unique_violation or internal_error then
                tries := tries + 1;
                if tries > 50 then
                    raise;
                end if;
                perform pg_sleep(0.02);
            end;
        end loop;
    end loop;
end
$$;

create schema app;
create schema queue;

-- The tenant of the running transaction, or null outside of one. nullif: after a transaction that
-- set it, the setting reads as '' for the rest of the session.
create function app.current_tenant() returns uuid
language sql stable
return nullif(current_setting('app.tenant_id', true), '')::uuid;

grant usage on schema app, queue to harkara_app, harkara_engine;
grant execute on function app.current_tenant() to harkara_app, harkara_engine;
