-- The name of a kind. Served by the primary key.
select name from queue.kinds where id = $1::int4
