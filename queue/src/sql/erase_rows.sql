-- Removes what else there is of a tenant, table by table. See migration 0027. Served by the indexes named
-- there.
select queue.erase_rows($1::int4, $2::text, $3::int4)
