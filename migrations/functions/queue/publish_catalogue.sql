-- Publishes the kinds, unless a newer release has: p_kinds is an array of rows of queue.catalogue. Returns
-- whether anything was written. Kinds and queues are interned with it, so that no application's transaction has
-- to.
create or replace function queue.publish_catalogue(p_version int4, p_notify boolean, p_kinds jsonb) returns boolean
language plpgsql volatile as $$
declare
    known queue.published;
    fresh text := md5(p_kinds::text);
begin
    select * into known from queue.published p;
    if p_version < known.version
        or (p_version, fresh, p_notify) = (known.version, known.digest, known.notify) then
        return false;
    end if;
    select * into known from queue.published p for update;
    if p_version < known.version then
        return false;
    end if;
    delete from queue.catalogue c
    where c.kind not in (select k ->> 'kind' from jsonb_array_elements(p_kinds) k);
    insert into queue.catalogue as c
    select k.* from jsonb_populate_recordset(null::queue.catalogue, p_kinds) k order by k.kind
    on conflict (kind) do update set
        queue = excluded.queue, max_attempts = excluded.max_attempts,
        timeout_ms = excluded.timeout_ms, backoff = excluded.backoff,
        platform_only = excluded.platform_only, shape = excluded.shape, rules = excluded.rules;
    insert into queue.kinds (name) select c.kind from queue.catalogue c
    where c.kind not in (select name from queue.kinds) order by 1
    on conflict do nothing;
    insert into queue.queues (name) select distinct c.queue from queue.catalogue c
    where c.queue not in (select name from queue.queues) order by 1
    on conflict do nothing;
    update queue.published set version = p_version, digest = fresh, notify = p_notify;
    return true;
end
$$;

revoke execute on function queue.publish_catalogue(int4, boolean, jsonb) from public;
grant execute on function queue.publish_catalogue(int4, boolean, jsonb) to harkara_engine;
