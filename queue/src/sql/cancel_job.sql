-- Cancels one job: at once when it waits; when it runs, its worker is told to. Found by primary key.
-- The row is locked before it is judged. It may have changed while the lock was waited for, and the
-- update first meets it as it was: so what is written comes from the row itself, never from `found`.
-- (`job_id` stands in `found` because row-level security keeps arithmetic out of an index lookup.)
with found as materialized (
    select id, state, keyed, id * 1024 + lo as job_id
    from queue.parcels
    where id = $1::bigint
    for update
),
changed as (
    update queue.parcels p
    set state = case when p.state = 'r' then 'r' else 'c' end::"char",
        cancel = p.state = 'r',
        finished_at = case when p.state = 'r' then null else now() end
    from found f
    where p.id = f.id and f.state in ('s', 'a', 'r')
    returning p.id, p.state
),
released as (
    delete from queue.unique_keys k
    using found f
    where f.keyed and f.state in ('s', 'a')
      and k.job_id = f.job_id and k.expires_at = 'infinity'
),
told as (
    select pg_notify('harkara', 'c:' || id)::text from changed where state = 'r' and $2::bool
)
select
    coalesce((select state from changed), f.state)::text,
    exists (select from changed) and coalesce((select true from told), true),
    null::bigint
from found f
