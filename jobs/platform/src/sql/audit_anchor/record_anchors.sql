-- Records how far chains were anchored at $4. A tenant can have been erased meanwhile. Served by the
-- primary key.
insert into app.audit_anchors (tenant_id, seq, hash, anchored_at)
select t.id, u.seq, u.hash, $4::timestamptz
from unnest($1::uuid[], $2::int8[], $3::bytea[]) as u(tenant_id, seq, hash)
join app.tenants t on t.id = u.tenant_id
order by t.id
on conflict (tenant_id) do update
set seq = excluded.seq, hash = excluded.hash, anchored_at = excluded.anchored_at
