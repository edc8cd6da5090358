-- Stops a tenant for good, and answers its number. See migration 0027. Served by the unique index on id.
select queue.erase_begin($1::uuid)
