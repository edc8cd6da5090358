-- Where the counters and the jobs differ, at one moment. Reads every job that has not finished.
select d.tenant, d.queue, d.kind, d.state, d.recorded, d.counted from queue.find_counter_drift() d
