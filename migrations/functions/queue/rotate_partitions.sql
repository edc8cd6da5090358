-- Creates the daily partitions of today and the next `ahead` days, drops those that ended before `keep` ago, and
-- returns how many it dropped. The lock timeout is short: it runs again later rather than queue behind a long
-- reader with the parent locked.
create or replace function queue.rotate_partitions(ahead int4, keep interval) returns int4
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
    day date;
    part record;
    dropped int4 := 0;
begin
    -- One rotation at a time; readers and writers are not blocked.
    lock table queue.attempts in share update exclusive mode;
    for day in select (now() at time zone 'utc')::date + g from generate_series(0, ahead) g loop
        if to_regclass(format('queue.attempts_%s', to_char(day, 'YYYYMMDD'))) is null then
            begin
                execute format(
                    'create table queue.attempts_%s partition of queue.attempts
                     for values from (%L) to (%L)',
                    to_char(day, 'YYYYMMDD'),
                    day::timestamp at time zone 'utc',
                    (day + 1)::timestamp at time zone 'utc'
                );
                execute format(
                    'alter table queue.attempts_%s enable row level security',
                    to_char(day, 'YYYYMMDD')
                );
                execute format(
                    'alter table queue.attempts_%s force row level security',
                    to_char(day, 'YYYYMMDD')
                );
            exception when check_violation then
                null; -- rows of that day are in the default partition already and stay there
            end;
        end if;
    end loop;
    for part in
        select c.relname
        from pg_class c
        join pg_inherits i on i.inhrelid = c.oid
        where i.inhparent = 'queue.attempts'::regclass
          and c.relname ~ '^attempts_\d{8}$'
          and to_date(right(c.relname, 8), 'YYYYMMDD') + 1
              < ((now() - keep) at time zone 'utc')::date
    loop
        execute format('drop table queue.%I', part.relname);
        dropped := dropped + 1;
    end loop;
    delete from queue.attempts_other where finished_at < now() - keep;
    return dropped;
end
$$;

revoke execute on function queue.rotate_partitions(int4, interval) from public;
grant execute on function queue.rotate_partitions(int4, interval) to harkara_engine;
