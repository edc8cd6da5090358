-- Takes back what dead workers held, at most $1 rows: see queue.rescue in the migrations.
select seen, rescued, dead from queue.rescue($1::int4)
