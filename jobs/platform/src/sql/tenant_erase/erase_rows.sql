-- Removes at most $3 rows of a canceled tenant from table $2, and returns their number. See
-- migrations/functions/app/erase_rows.sql. Served by the primary key of each.
select app.erase_rows($1::uuid, $2::text, $3::int4)
