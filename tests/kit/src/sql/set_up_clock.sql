-- Installs a settable clock in this database: from the next connection on, `now()` and
-- related functions return the time in kit.clock. They are resolved by name, in a schema that precedes
-- pg_catalog; column defaults and function search paths that were bound to the real functions
-- are rebound. The table needs no index: it has one row.
do $$
declare
    command text;
    commands text[];
begin
    create schema kit;
    grant usage on schema kit to public;
    create table kit.clock (at timestamptz not null);
    grant select on kit.clock to public;
    insert into kit.clock values (pg_catalog.clock_timestamp());
    create function kit.now() returns timestamptz language sql stable
        as 'select at from kit.clock';
    create function kit.transaction_timestamp() returns timestamptz language sql stable
        as 'select at from kit.clock';
    create function kit.statement_timestamp() returns timestamptz language sql stable
        as 'select at from kit.clock';
    create function kit.clock_timestamp() returns timestamptz language sql volatile
        as 'select at from kit.clock';

    select array_agg(format('alter table %s alter %I set default %s',
        d.adrelid::regclass, a.attname, pg_get_expr(d.adbin, d.adrelid)))
    into commands
    from pg_attrdef d
    join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
    where d.adrelid in (
            select oid from pg_class
            where relnamespace in (select oid from pg_namespace where nspname in ('queue', 'app'))
        )
        and pg_get_expr(d.adbin, d.adrelid)
            ~ '\m(now|(transaction|statement|clock)_timestamp)\(\)';
    -- From here on, names resolve to the kit's functions.
    perform set_config('search_path', 'kit, pg_catalog, public', true);
    foreach command in array coalesce(commands, '{}') loop
        execute command;
    end loop;
    for command in
        select format('alter function %s set search_path = kit, %s',
            p.oid::regprocedure, substr(setting, length('search_path=') + 1))
        from pg_proc p
        cross join unnest(p.proconfig) setting
        where p.pronamespace in (select oid from pg_namespace where nspname in ('queue', 'app'))
            and setting like 'search\_path=%'
    loop
        execute command;
    end loop;
    execute format('alter database %I set search_path = kit, pg_catalog, public', current_database());
end
$$
