-- Verifies up to p_limit entries after number p_after, whose hash is p_hash, and returns how far it came and which
-- entries are missing or changed. Served by the primary key.
create or replace function app.verify_audit_chain(p_tenant uuid, p_after int8, p_hash bytea, p_limit int4)
returns table (checked int8, seq int8, hash bytea, faults jsonb)
language sql stable set search_path = pg_catalog, pg_temp as $$
    with entries as (
        select a.entry, a.seq, a.hash,
            lag(a.seq, 1, p_after) over (order by a.seq) as seq_before,
            lag(a.hash, 1, p_hash) over (order by a.seq) as hash_before
        from (
            select l as entry, l.seq, l.hash from app.audit_log l
            where l.tenant_id = p_tenant and l.seq > p_after
            order by l.seq
            limit p_limit
        ) a
    ),
    judged as (
        select e.seq, e.hash, case
            when e.seq <> e.seq_before + 1 then 'missing'
            when e.hash <> app.hash_audit_entry(e.hash_before, e.entry) then 'changed'
        end as fault
        from entries e
    )
    select count(*), coalesce(max(j.seq), p_after),
        coalesce((array_agg(j.hash order by j.seq desc))[1], p_hash),
        coalesce(
            jsonb_agg(jsonb_build_object('seq', j.seq, 'fault', j.fault) order by j.seq)
                filter (where j.fault is not null),
            '[]'
        )
    from judged j
$$;
