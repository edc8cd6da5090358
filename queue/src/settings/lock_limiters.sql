-- Locks limiters in the order in which claims and settlements do. Served by the primary key.
select id from queue.limiters where id = any ($1::bigint[]) order by id for no key update
