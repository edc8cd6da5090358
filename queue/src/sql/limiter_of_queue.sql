-- A queue's number and limiter, made if $2 says so. See migration 0009. Served by the unique index on name.
select number, limiter, made from queue.limiter_of_queue($1::text, $2::bool)
