-- Changes a limiter. See queue.set_limit. Served by the primary key of limiters.
select fault, passed_over from queue.set_limit($1::bigint, $2::jsonb)
