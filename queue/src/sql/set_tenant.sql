-- Pauses a tenant or lets it go on, and says how much it gets beside others; null leaves things as they
-- are. $5 is how many of its jobs may wait, null for any number, if $4 says so. Served by the primary key.
update queue.tenants
set paused = coalesce($2::bool, paused),
    paused_at = case when coalesce($2::bool, paused) then coalesce(paused_at, now()) end,
    weight = coalesce($3::int2, weight),
    max_waiting = case when $4::bool then $5::int8 else max_waiting end
where number = $1::int4
