-- Cancels the jobs $1, and wakes workers if $2.
select job, state, changed, holder from queue.cancel_jobs($1::bigint[], $2::bool)
