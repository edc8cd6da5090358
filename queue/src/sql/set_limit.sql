-- Changes a limiter. See migration 0009. Served by the primary key of limiters.
select fault, passed_over from queue.set_limit($1::bigint, $2::jsonb)
