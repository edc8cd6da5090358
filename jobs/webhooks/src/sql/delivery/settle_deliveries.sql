-- Records the outcome of jobs in their deliveries, unless a run has written another state meanwhile.
-- Served by the primary key.
update app.deliveries d
set state = t.state, finished_at = t.finished_at
from unnest($2::uuid[], $3::text[], $4::text[], $5::timestamptz[]) as t(id, was, state, finished_at)
where d.tenant_id = $1 and d.id = t.id and d.state = t.was
