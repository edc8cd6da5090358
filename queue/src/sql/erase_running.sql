-- Cancels a tenant's runs, and answers how many there are. See migration 0027. Served by parcels_running.
select queue.erase_running($1::int4, $2::bool)
