-- Waits until every running transaction of this database has ended, for a second at most. A claim that began
-- before a limiter was created does not know it: its jobs are counted when it ends.
create or replace function queue.wait_for_claims() returns void
language plpgsql volatile as $$
declare
    others text[];
begin
    select array_agg(l.virtualtransaction) into others
    from pg_locks l
    where l.locktype = 'virtualxid' and l.pid <> pg_backend_pid() and l.pid in (
        select a.pid from pg_stat_activity a where a.datname = current_database()
    );
    for turn in 1 .. 200 loop
        exit when not exists (
            select from pg_locks l
            where l.locktype = 'virtualxid' and l.virtualtransaction = any (others)
        );
        perform pg_sleep(0.005);
    end loop;
end
$$;

revoke execute on function queue.wait_for_claims() from public;
grant execute on function queue.wait_for_claims() to harkara_engine;
