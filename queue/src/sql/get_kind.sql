-- The name of a kind. Found by primary key.
select name from queue.kinds where id = $1::int4
