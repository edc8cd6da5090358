-- Whose number this is. Found by primary key.
select id from queue.tenants where number = $1::int4
