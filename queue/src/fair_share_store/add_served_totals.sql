-- Adds what tenants were served since the last write, each raised at least to its value in the worker, and
-- returns the sums over all workers. In one order, like every writer. Served by the primary key.
with s as materialized (
    select * from unnest($1::int4[], $2::int4[], $3::float8[], $4::float8[])
        as s(queue, tenant, base, added)
),
made as (
    insert into queue.shares (queue, tenant, served)
    select queue, tenant, base + added from s
    order by queue, tenant
    on conflict (queue, tenant) do nothing
    returning queue, tenant, served
),
locked as materialized (
    select k.queue, k.tenant
    from queue.shares k join s using (queue, tenant)
    order by k.queue, k.tenant
    for update of k
),
added as (
    update queue.shares k
    set served = greatest(k.served + s.added, s.base + s.added), used_at = now()
    from locked join s using (queue, tenant)
    where k.queue = locked.queue and k.tenant = locked.tenant
    returning k.queue, k.tenant, k.served
)
select queue, tenant, served from made
union all
select queue, tenant, served from added
