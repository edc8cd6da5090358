-- Pauses a queue, or lets it go on. Served by the unique index on name.
update queue.queues set paused = $2::bool where name = $1::text returning id
