-- A tenant's limiter, made if $2 says so. See migration 0009. Served by the primary key of tenants.
select limiter, made from queue.limiter_of_tenant($1::int4, $2::bool)
