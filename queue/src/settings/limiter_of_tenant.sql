-- A tenant's limiter, created if $2 is true. See queue.limiter_of_tenant. Served by the primary key of
-- tenants.
select limiter, made from queue.limiter_of_tenant($1::int4, $2::bool)
