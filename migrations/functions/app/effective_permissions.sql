-- What a user can do at this moment: the granted roles, and the permissions of those roles and all that they inherit,
-- with the permissions allowed to the user and without those denied: deny wins.
create or replace function app.effective_permissions(p_tenant uuid, p_user uuid)
returns table (roles text[], permissions text[])
language sql stable set search_path = pg_catalog, pg_temp as $$
    with recursive granted as (
        select distinct g.role from app.role_grants g
        where g.tenant_id = p_tenant and g.user_id = p_user and g.revoked_at is null
            and g.not_before <= now() and (g.expires_at is null or g.expires_at > now())
    ),
    held (role) as (
        select role from granted
        union
        select p.parent from held h join app.role_parents p on p.role = h.role
    ),
    overrides as (
        select o.permission, o.effect from app.user_permissions o
        where o.tenant_id = p_tenant and o.user_id = p_user and o.revoked_at is null
            and o.not_before <= now() and (o.expires_at is null or o.expires_at > now())
    ),
    resolved (name) as (
        (
            select p.permission from held h join app.role_permissions p on p.role = h.role
            union
            select permission from overrides where effect = 'allow'
        )
        except
        select permission from overrides where effect = 'deny'
    )
    select array(select role from granted order by role), array(select name from resolved order by name)
$$;

grant execute on function app.effective_permissions(uuid, uuid) to harkara_app, harkara_engine;
