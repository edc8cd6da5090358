-- Adds up what was counted since it was last done: at most $1 rows; answers how many, null while another
-- process does so.
select queue.fold($1::int4)
