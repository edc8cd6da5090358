-- A tenant's gate, made if $2 says so. See migration 0009. Served by the primary key of tenants.
select gate, made from queue.gate_of_tenant($1::int4, $2::bool)
