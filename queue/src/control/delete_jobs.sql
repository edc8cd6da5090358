-- Deletes those of the jobs $1 that have finished.
select job, state, changed, holder from queue.delete_jobs($1::bigint[])
