-- Pauses or resumes a queue. Served by the unique index on name.
update queue.queues
set paused = $2::bool, paused_at = case when $2::bool then coalesce(paused_at, now()) end
where name = $1::text
returning id
