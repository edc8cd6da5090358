-- Pauses a tenant or lets it go on, and says how much it gets beside others; null leaves things as they
-- are. Served by the primary key.
update queue.tenants
set paused = coalesce($2::bool, paused),
    paused_at = case when coalesce($2::bool, paused) then coalesce(paused_at, now()) end,
    weight = coalesce($3::int2, weight)
where number = $1::int4
