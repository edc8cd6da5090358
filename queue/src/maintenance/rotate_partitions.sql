-- Creates the partitions of the attempt log for the next 7 days and drops those older than $1 seconds;
-- returns how many days were dropped.
select queue.rotate_partitions(7, $1::float8 * interval '1 second')
