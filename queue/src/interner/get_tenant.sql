-- The tenant with this number. Served by the primary key.
select id from queue.tenants where number = $1::int4
