-- The log of one job's unsuccessful runs, oldest first. Served by attempts_job in each partition since the
-- job was enqueued.
select a.started_at, a.finished_at, a.next_run_at, a.worker_id, a.outcome, a.error_code, a.error_message
from queue.attempts a
where a.job_id = $1::bigint and a.finished_at >= $2::timestamptz
order by a.finished_at, a.started_at
