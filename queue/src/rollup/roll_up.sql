-- Rolls up at most $1 deltas; returns their number, or null while another process does so.
select queue.roll_up_counters($1::int4)
