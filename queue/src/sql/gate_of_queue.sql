-- A queue's number and gate, made if $2 says so. See migration 0009. Served by the unique index on name.
select number, gate, made from queue.gate_of_queue($1::text, $2::bool)
