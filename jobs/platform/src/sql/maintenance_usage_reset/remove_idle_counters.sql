-- Removes counters of request limits whose quota is whole again, so that they have no effect; at most ten
-- thousand, and none that is being charged. Served by request_counters_pkey, after a read of the table.
with idle as (
    select subject, policy, version from app.request_counters
    where whole_at <= extract(epoch from now()) * 1000000
    limit 10000
    for update skip locked
)
delete from app.request_counters c using idle i
where c.subject = i.subject and c.policy = i.policy and c.version = i.version
