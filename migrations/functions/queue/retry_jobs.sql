-- Makes dead and cancelled jobs ready again with a full set of attempts, unless another live job holds the job's
-- unique key. Returns the state of each job now, whether that is a change, and the holder of the key.
create or replace function queue.retry_jobs(p_jobs bigint[], p_notify boolean)
returns table (job bigint, state text, changed boolean, holder bigint)
language plpgsql volatile
set enable_seqscan = off set enable_nestloop = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    jobs bigint[];
    places tid[];
    members int2[];
    states text[];
    keyed bigint[];
    taken bigint[];
    emptied bigint[];
    emptied_parts int2[];
    woken int4[];
begin
    select
        array_agg(h.job), array_agg(h.place), array_agg(h.member), array_agg(h.state::text),
        array_agg(h.job) filter (where h.state in ('x', 'c') and h.keyed)
    into jobs, places, members, states, keyed
    from queue.lock_jobs(p_jobs) h;
    return query
    select u.job, u.state, false, null::bigint from unnest(jobs, states) as u(job, state)
    where u.state not in ('x', 'c');
    select array_agg(u.job), array_agg(u.place), array_agg(u.member)
    into jobs, places, members
    from unnest(jobs, places, members, states) as u(job, place, member, state)
    where u.state in ('x', 'c');
    if jobs is null then
        return;
    end if;
    if keyed is not null then
        -- Takes keys until their jobs finish, unless the job still holds its timed key. Keys that others hold are left
        -- alone, as in take_unique_keys.sql; of two jobs with one key the older gets it.
        with named as materialized (
            select l.tenant, p.kind, l.value as key, l.job_id
            from unnest(jobs, places) as u(job, place)
            cross join lateral (
                select r.kind from queue.parcels r where r.ctid = u.place limit 1
            ) p
            cross join lateral (
                select l.tenant, l.value, l.job_id from queue.labels l
                where l.job_id = u.job and l.name = 'unique_key'
                limit 1
            ) l
            where u.job = any (keyed)
        ),
        known as materialized (
            select n.*, h.job_id as holder
            from named n left join lateral (
                select k.job_id from queue.unique_keys k
                where k.tenant = n.tenant and k.kind = n.kind and k.key = n.key
                    and k.expires_at > now()
                limit 1
            ) h on true
        ),
        wanted as materialized (
            select distinct on (k.tenant, k.kind, k.key) k.tenant, k.kind, k.key, k.job_id
            from known k
            where k.holder is null or k.holder = k.job_id
            order by k.tenant, k.kind, k.key, k.holder nulls last, k.job_id
        ),
        taken as (
            insert into queue.unique_keys as held (tenant, kind, key, job_id, expires_at)
            select w.tenant, w.kind, w.key, w.job_id, 'infinity' from wanted w
            order by w.tenant, w.kind, w.key
            on conflict (tenant, kind, key) do update
            set job_id = excluded.job_id,
                expires_at = case
                    when held.expires_at <= now() then excluded.expires_at else held.expires_at
                end
            where held.expires_at <= now() or held.job_id = excluded.job_id
            returning job_id
        )
        select coalesce(array_agg(t.job_id), '{}') into taken from taken t;
        return query
        select
            u.job, p.state::text, false, coalesce((
                select k.job_id from queue.unique_keys k
                where k.tenant = l.tenant and k.kind = p.kind and k.key = l.value
                    and k.expires_at > now()
                limit 1
            ), u.job)
        from unnest(jobs, places) as u(job, place)
        cross join lateral (
            select r.kind, r.state from queue.parcels r where r.ctid = u.place limit 1
        ) p
        left join lateral (
            select l.tenant, l.value from queue.labels l
            where l.job_id = u.job and l.name = 'unique_key'
            limit 1
        ) l on true
        where u.job = any (keyed) and u.job <> all (taken);
        select array_agg(u.job), array_agg(u.place), array_agg(u.member)
        into jobs, places, members
        from unnest(jobs, places, members) as u(job, place, member)
        where u.job <> all (keyed) or u.job = any (taken);
        if jobs is null then
            return;
        end if;
    end if;
    with seen as materialized (
        select * from queue.group_jobs_by_row(jobs, places, members)
    ),
    changed as (
        update queue.parcels p
        set state = case when s.whole then 'a' when s.last then 'd' else p.state end::"char",
            attempt = case when s.whole then 0 else p.attempt end,
            deferrals = case when s.whole then 0 else p.deferrals end,
            run_at = case when s.whole then now() else p.run_at end,
            finished_at = case when s.whole then null else p.finished_at end,
            lease = case when s.whole then null else p.lease end,
            expires_at = case when s.whole then null else p.expires_at end,
            token = null, cancelling = null, lost = false, probe = false, limiters = null,
            gone = case when s.whole then p.gone else p.gone || s.members end
        from seen s
        where p.ctid = any (array(select place from seen)) and p.ctid = s.place
    ),
    left_alone as (
        insert into queue.parcels (
            tenant, id, part, lane, run_at, created_at, started_at, queue, kind, priority,
            max_attempts, lo, state, keyed, error_code, error_message, bytes, body
        )
        select
            p.tenant, j.job / 1024, -(j.job % 1024) - 1, p.lane, now(),
            coalesce(p.created[b.member], p.created_at), p.started_at, p.queue, p.kind, p.priority,
            p.max_attempts, j.job % 1024, 'a', p.keyed, p.error_code, p.error_message,
            case when octet_length(b.body) > 1024 then octet_length(b.body) end, array[b.body]
        from seen s
        cross join lateral (select * from queue.parcels p where p.ctid = s.place limit 1) p
        cross join lateral unnest(p.body) with ordinality as b(body, member)
        cross join lateral (
            select s.jobs[array_position(s.members, b.member::int2)] as job
        ) j
        where not s.whole and b.member::int2 = any (s.members)
    ),
    counted as (
        select queue.record_state_changes(
            array_agg(tenant), array_agg(queue), array_agg(kind), array_agg(state::text),
            array_agg('a'::text), array_agg(cardinality(members))
        )
        from seen
    )
    select
        array_agg(distinct s.queue), array_agg(s.id) filter (where not s.whole and s.last),
        array_agg(s.part) filter (where not s.whole and s.last)
    into woken, emptied, emptied_parts
    from seen s
    where (select count(*) from counted) >= 0;
    if emptied is not null then
        perform queue.clear_empty_parcels(emptied, emptied_parts);
    end if;
    if p_notify then
        perform pg_notify('harkara', 'q:' || left(array_to_string(woken, ','), 4000));
    end if;
    return query select u, 'a', true, null::bigint from unnest(jobs) u;
end
$$;

revoke execute on function queue.retry_jobs(bigint[], boolean) from public;
grant execute on function queue.retry_jobs(bigint[], boolean) to harkara_app, harkara_engine;
