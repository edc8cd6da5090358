-- Pauses or resumes a tenant and sets its weight; null leaves them unchanged. If $4, sets the highest
-- number of its waiting jobs to $5, null for no bound. Served by the primary key.
update queue.tenants
set paused = coalesce($2::bool, paused),
    paused_at = case when coalesce($2::bool, paused) then coalesce(paused_at, now()) end,
    weight = coalesce($3::int2, weight),
    max_waiting = case when $4::bool then $5::int8 else max_waiting end
where number = $1::int4
