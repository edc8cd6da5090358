-- Ids for parcels whose unique keys must name them before they exist.
select nextval('queue.parcel_id') from generate_series(1, $1::int4)
