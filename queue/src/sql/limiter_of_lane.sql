-- A lane's limiter, made if $5 says so. See migration 0009. Served by lanes' unique index.
select limiter, made from queue.limiter_of_lane($1::int4, $2::int4, $3::text, $4::bool, $5::bool)
