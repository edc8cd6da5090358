-- All roles, with their own permissions and those that they inherit. Served by the primary keys; there are
-- a handful of roles.
with recursive held (role, ancestor) as (
    select name, name from app.roles
    union
    select h.role, p.parent from held h join app.role_parents p on p.role = h.ancestor
)
select r.name, r.description,
    array(select parent from app.role_parents p where p.role = r.name order by parent) as inherits,
    array(
        select distinct p.permission
        from held h join app.role_permissions p on p.role = h.ancestor
        where h.role = r.name
        order by p.permission
    ) as permissions
from app.roles r
order by r.name
