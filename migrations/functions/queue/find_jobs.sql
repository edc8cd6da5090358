-- Locates jobs of the running transaction's tenant: the row's id and part, and the member (1 .. n) in it. A job
-- that is no longer kept is not returned.
--
-- A job is in the row of its parcel's id, as a member or having left by itself: two probes of the primary key.
-- Or it was merged: into a row of the same 1024 parcel ids, not above its own. Each such block is scanned once
-- for all jobs together, from id to id, with two probes for each. Every operation on single jobs begins with
-- this function. Plans are pinned (see migrations/README.md), and many jobs are joined by hashing: no statistics
-- show how many are passed.
create or replace function queue.find_jobs(p_jobs bigint[])
returns table (job bigint, tenant int4, id bigint, part int2, member int2)
language plpgsql stable rows 10
set enable_seqscan = off set enable_nestloop = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    own int4 := (select t.number from queue.tenants t where t.id = app.current_tenant());
begin
    return query
    -- Computed here: row-level security keeps expressions out of an index lookup.
    with recursive wanted as materialized (
        select distinct
            j as job, j / 1024 as parcel, (j % 1024)::int2 as place,
            (-(j % 1024) - 1)::int2 as alone, (j % 1024 + 1)::int2 as furthest
        from unnest(p_jobs) j
        where j >= 0
    ),
    near as materialized (
        select w.job, w.parcel, p.id, p.part, (w.place - p.lo + 1)::int2 as member
        from wanted w left join lateral (
            (
                select a.id, a.part, a.lo, a.n, a.gone, a.ids
                from queue.parcels a
                where a.tenant = own and a.id = w.parcel and a.part = w.alone
                limit 1
            )
            union all
            -- Pieces do not overlap: the last one that does not begin after the position.
            (
                select b.id, b.part, b.lo, b.n, b.gone, b.ids
                from queue.parcels b
                where b.tenant = own and b.id = w.parcel and b.part between 0 and w.furthest
                order by b.part desc
                limit 1
            )
        ) p on p.ids is null and w.place >= p.lo and w.place < p.lo + p.n
            and (w.place - p.lo + 1)::int2 <> all (coalesce(p.gone, '{}'))
    ),
    missing as materialized (
        select n.job, n.parcel from near n where n.id is null
    ),
    block as materialized (
        select m.parcel / 1024 * 1024 as first, max(m.parcel) as last from missing m group by 1
    ),
    walk(first, id) as (
        select b.first, (
            select p.id from queue.parcels p
            where p.tenant = own and p.id >= b.first and p.id <= b.last
            order by p.id desc
            limit 1
        )
        from block b
        union all
        select w.first, (
            select p.id from queue.parcels p
            where p.tenant = own and p.id >= w.first and p.id < w.id
            order by p.id desc
            limit 1
        )
        from walk w
        where w.id is not null
    ),
    merged as materialized (
        select u.job, p.id, p.part, u.member::int2
        from walk w
        cross join lateral (
            select r.id, r.part, r.ids, r.gone
            from queue.parcels r
            where r.tenant = own and r.id = w.id and r.part = 0 and r.ids is not null
            limit 1
        ) p
        cross join lateral unnest(p.ids) with ordinality as u(job, member)
        where u.member <> all (coalesce(p.gone, '{}'))
    )
    select n.job, own, n.id, n.part, n.member from near n where n.id is not null
    union all
    select m.job, own, f.id, f.part, f.member from missing m join merged f on f.job = m.job;
end
$$;

revoke execute on function queue.find_jobs(bigint[]) from public;
grant execute on function queue.find_jobs(bigint[]) to harkara_app, harkara_engine;
