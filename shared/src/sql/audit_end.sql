-- The recorded end of a tenant's audit chain, and the number of its last entry. Served by the primary keys of
-- audit_heads and audit_log.
select h.seq is null as is_gone, coalesce(h.seq, 0) as seq, coalesce(h.hash, '') as hash, coalesce(
    (select max(l.seq) from app.audit_log l where l.tenant_id = t.tenant), 0
) as last
from (select $1::uuid as tenant) t
left join app.audit_heads h on h.tenant_id = t.tenant
