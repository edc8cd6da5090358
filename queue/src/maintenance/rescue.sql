-- Takes back what dead workers held, at most $1 rows: see queue.rescue_lost_parcels.
select seen, rescued, dead from queue.rescue_lost_parcels($1::int4)
