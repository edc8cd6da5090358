-- Removes a canceled tenant and the end of its audit chain, and answers what these were; no row if anything
-- was added meanwhile. See migration 0027. Served by primary keys.
select slug, name, seq, hash from app.erase_tenant($1::uuid)
