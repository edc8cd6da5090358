-- Corrects the counters by counting all jobs; returns how many were wrong.
select queue.recount()
