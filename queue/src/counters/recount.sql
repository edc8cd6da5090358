-- Sets the counters right by counting all jobs; answers how many were wrong.
select queue.recount()
