-- Makes those of the jobs $1 that are dead or cancelled ready again, and wakes workers if $2.
select job, state, changed, holder from queue.retry_jobs($1::bigint[], $2::bool)
