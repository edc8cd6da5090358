-- Ends of audit chains that have grown since they were anchored, of tenants after $1, at most $2; and
-- whether the anchored entry is unchanged. Served by primary keys: one row a tenant.
select
    h.tenant_id, h.seq, h.hash,
    a.seq is null or a.seq < h.seq and exists (
        select from app.audit_log l
        where l.tenant_id = h.tenant_id and l.seq = a.seq and l.hash = a.hash
    ) as is_intact
from app.audit_heads h left join app.audit_anchors a using (tenant_id)
where h.tenant_id > $1::uuid and h.seq > 0 and (h.seq, h.hash) is distinct from (a.seq, a.hash)
order by h.tenant_id
limit $2::int8
