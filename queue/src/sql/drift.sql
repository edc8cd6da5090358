-- Where the counters and the jobs differ, at one moment. Reads every job that has not finished.
select d.tenant, d.queue, d.kind, d.state, d.told, d.counted from queue.drift() d
