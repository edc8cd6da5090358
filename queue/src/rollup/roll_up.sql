-- Adds up what was counted since it was last done: at most $1 rows; answers how many, null while another
-- process does so.
select queue.roll_up_counters($1::int4)
