-- Every tenant that has ever had a job.
select id from queue.tenants order by number
