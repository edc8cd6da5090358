-- A queue's number and limiter, created if $2 is true. See queue.limiter_of_queue. Served by the unique
-- index on name.
select number, limiter, made from queue.limiter_of_queue($1::text, $2::bool)
