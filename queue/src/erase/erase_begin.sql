-- Stops a tenant for good and returns its number. See queue.erase_begin. Served by the unique index on id.
select queue.erase_begin($1::uuid)
