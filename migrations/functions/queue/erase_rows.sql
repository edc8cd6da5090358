-- Removes at most p_limit rows (of attempts, also those of the same moment) of a tenant from one of the engine's
-- other tables, and returns their number. Served by the primary keys, attempts_tenant, progress_tenant, and for
-- lanes and limiters by their unique indexes.
create or replace function queue.erase_rows(p_tenant int4, p_table text, p_limit int4) returns int8
language plpgsql volatile
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
declare
    edge timestamptz;
    removed int8;
begin
    case p_table
    when 'labels' then
        delete from queue.labels l where l.ctid = any (array(
            select o.ctid from queue.labels o where o.tenant = p_tenant limit p_limit
            for update skip locked
        ));
    when 'progress' then
        delete from queue.progress g where g.ctid = any (array(
            select o.ctid from queue.progress o where o.tenant = p_tenant limit p_limit
            for update skip locked
        ));
    when 'unique_keys' then
        delete from queue.unique_keys k where k.ctid = any (array(
            select o.ctid from queue.unique_keys o where o.tenant = p_tenant limit p_limit
            for update skip locked
        ));
    when 'attempts' then
        select max(o.finished_at) into edge
        from (
            select a.finished_at from queue.attempts a
            where a.tenant = p_tenant order by a.finished_at limit p_limit
        ) o;
        delete from queue.attempts a where a.tenant = p_tenant and a.finished_at <= edge;
    when 'lanes' then
        delete from queue.lanes l where l.id = any (array(
            select o.id
            from queue.queues q cross join lateral (
                select k.id from queue.lanes k
                where k.queue = q.id and k.tenant = p_tenant limit p_limit
                for update skip locked
            ) o
            limit p_limit
        ));
    when 'limiters' then
        delete from queue.limiters g where g.id = any (array(
            select o.id from queue.limiters o where o.tenant = p_tenant limit p_limit
            for update skip locked
        ));
    when 'shares' then
        delete from queue.shares s where s.tenant = p_tenant and s.queue = any (array(
            select q.id from queue.queues q
        ));
    when 'history' then
        delete from queue.history h where h.ctid = any (array(
            select o.ctid from queue.history o where o.tenant = p_tenant limit p_limit
            for update skip locked
        ));
    end case;
    get diagnostics removed = row_count;
    return removed;
end
$$;

revoke execute on function queue.erase_rows(int4, text, int4) from public;
grant execute on function queue.erase_rows(int4, text, int4) to harkara_engine;
