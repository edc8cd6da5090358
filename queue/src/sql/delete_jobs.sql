-- Deletes finished ones of the jobs $1.
select job, state, changed, holder from queue.delete_jobs($1::bigint[])
