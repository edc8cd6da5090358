-- Moves those of the jobs $1 that are in a state of $2 to the time $3, or to now, and wakes workers if $4.
select job, state, changed, holder
from queue.move_jobs($1::bigint[], $2::text[], $3::timestamptz, $4::bool)
