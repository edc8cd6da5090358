-- The number of a queue, if it is there. Served by the unique index on name.
select id from queue.queues where name = $1::text
