-- A lane's gate, made if $5 says so. See migration 0009. Served by lanes' unique index.
select gate, made from queue.gate_of_lane($1::int4, $2::int4, $3::text, $4::bool, $5::bool)
