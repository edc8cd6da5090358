-- Cancels one job: at once when it waits; when it runs, its worker is told to. A waiting job among
-- others leaves their row for one of its own. Found by `queue.find`, then by primary key; in the order
-- of locks parcels, lanes, unique keys.
-- The row is locked before it is judged. It may have changed while the lock was waited for; a job that
-- is no longer in it has moved, which is answered by a state of null: whoever asks again will find it.
-- The update may yet meet the row as it was, before it is led to what was locked: what it writes then
-- must pass the table's checks, so a row that was running then is left so.
with place as materialized (
    select * from queue.find(array[$1::bigint])
),
found as materialized (
    select
        p.*, (select member from place) as member,
        (select member from place) = any (coalesce(p.acked, '{}')) as succeeded
    from queue.parcels p
    where p.tenant = (select tenant from place)
      and p.id = (select id from place)
      and p.part = (select part from place)
    for update
),
here as materialized (
    select
        f.*,
        case
            when f.succeeded then 'refused'
            when f.state = 'r' then 'tell'
            when f.state not in ('s', 'a') then 'refused'
            when f.n = 1 then 'end'
            else 'leave'
        end as act,
        f.n - coalesce(cardinality(f.gone), 0) = 1 as last
    from found f
    where queue.job_of(f.id, f.lo, f.ids, f.member) = $1::bigint
      and f.member <= f.n
      and f.member <> all (coalesce(f.gone, '{}'))
),
changed as (
    update queue.parcels p
    set state = case
            when p.state = 'r' then 'r'
            when h.act = 'end' then 'c'
            when h.act = 'leave' and h.last then 'd'
            else p.state
        end::"char",
        finished_at = case
            when h.act = 'end' or h.act = 'leave' and h.last then now() else p.finished_at
        end,
        cancelling = case
            when h.act = 'tell' and h.member <> all (coalesce(p.cancelling, '{}'))
                then p.cancelling || h.member
            else p.cancelling
        end,
        gone = case when h.act = 'leave' then p.gone || h.member else p.gone end
    from here h
    where p.tenant = h.tenant and p.id = h.id and p.part = h.part and h.act <> 'refused'
    returning p.id, p.part, p.queue, p.lane, p.strict, h.act, h.last, h.keyed,
        case when h.act = 'tell' then 'r' else 'c' end as state
),
left_alone as (
    insert into queue.parcels (
        tenant, id, part, lane, run_at, created_at, started_at, finished_at, lease, queue, kind,
        priority, attempt, max_attempts, deferrals, lo, state, keyed, lost, error_code,
        error_message, body
    )
    select
        h.tenant, $1::bigint / 1024, -($1::bigint % 1024) - 1, h.lane, h.run_at, h.created_at,
        h.started_at, now(), h.lease, h.queue, h.kind, h.priority, h.attempt, h.max_attempts,
        h.deferrals, $1::bigint % 1024, 'c', h.keyed, h.lost, h.error_code, h.error_message,
        array[h.body[h.member]]
    from here h
    where h.act = 'leave'
),
-- The next job of a strict lane need not wait for one that will not go on.
let_on as (
    update queue.lanes l set head = null
    from changed c
    where c.strict and c.state = 'c' and l.id = c.lane and l.head = c.id
    returning l.queue
),
released as (
    delete from queue.unique_keys k
    using changed c
    where (select count(*) from let_on) >= 0
      and c.keyed and c.state = 'c' and k.job_id = $1::bigint and k.expires_at = 'infinity'
),
told as (
    select pg_notify('harkara', 'c:' || $1::bigint)::text from changed where act = 'tell' and $2::bool
    union all
    select pg_notify('harkara', 'o:' || queue)::text from let_on where $2::bool
)
select
    coalesce(c.state, case when h.succeeded then 'd' else h.state end::text) as state,
    c.state is not null and coalesce((select true from told), true) as changed,
    null::bigint as holder,
    case when c.act = 'leave' and c.last then c.id end as emptied,
    case when c.act = 'leave' and c.last then c.part end as emptied_part
from place f
left join here h on true
left join changed c on true
