-- Removes a canceled tenant and the end of its audit chain, and returns both; no row if an entry was added
-- meanwhile. See migrations/functions/app/erase_tenant.sql. Served by primary keys.
select slug, name, seq, hash from app.erase_tenant($1::uuid)
