-- The number of a queue, if it exists. Served by the unique index on name.
select id from queue.queues where name = $1::text
