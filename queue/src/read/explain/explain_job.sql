-- Everything that decides whether a job of the running transaction's tenant runs now, as one object; null
-- when the tenant has no such job. See queue.explain. Served by queue.find_jobs.
select queue.explain($1::bigint)
