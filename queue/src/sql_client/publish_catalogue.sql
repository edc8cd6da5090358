-- Publishes the catalogue of kinds for applications that enqueue by SQL, unless a newer release has: $1 is
-- the catalogue's version, $2 whether workers are woken by notifications, $3 the kinds. See
-- queue.publish_catalogue. Served by the primary keys of published and catalogue.
select queue.publish_catalogue($1::int4, $2::bool, $3::jsonb)
