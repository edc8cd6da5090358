-- Removes a tenant's counters and number when nothing else is left. See queue.erase_end. Served by primary
-- keys.
select queue.erase_end($1::int4)
