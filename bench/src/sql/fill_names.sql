-- Queues, kinds and lanes of the ten tenants $1: the nth queue holds the nth kind, and a tenant has one lane in
-- each. In an empty database, numbers begin at 1.
with queues as (
    insert into queue.queues (name) select 'q' || g from generate_series(1, 5) g order by g returning id
),
kinds as (
    insert into queue.kinds (name) select 'k' || g from generate_series(1, 5) g order by g returning id
)
insert into queue.lanes (queue, tenant)
select q, ($1::int4[])[t]
from generate_series(1, 10) t, generate_series(1, 5) q
where (select count(*) from queues) = 5 and (select count(*) from kinds) = 5
order by t, q
