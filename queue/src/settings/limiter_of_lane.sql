-- A lane's limiter, created if $5 is true. See queue.limiter_of_lane. Served by lanes' unique index.
select limiter, made from queue.limiter_of_lane($1::int4, $2::int4, $3::text, $4::bool, $5::bool)
