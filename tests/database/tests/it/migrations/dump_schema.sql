-- The schema as text: one row for each object, in the order of migrations/schema.sql. Reads the catalogue only, so
-- that the result does not depend on the installed pg_dump. Daily partitions are left out: their names are dates.
with relations as (
    select c.*, n.nspname || '.' || c.relname as name
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname in ('app', 'queue') and c.relname !~ '^attempts_\d{8}'
),
rights as (
    select r.oid, string_agg(
        format(E'grant %s on %s to %s;\n', g.privileges, r.name, g.grantee), '' order by g.grantee
    ) as text
    from relations r
    cross join lateral (
        select a.grantee::regrole::text as grantee,
            string_agg(lower(a.privilege_type), ', ' order by a.privilege_type) as privileges
        from aclexplode(r.relacl) a
        where a.grantee <> r.relowner
        group by a.grantee
    ) g
    group by r.oid
),
column_rights as (
    select r.oid, string_agg(
        format(E'grant %s (%s) on %s to %s;\n', g.privilege, g.columns, r.name, g.grantee), ''
        order by g.grantee, g.privilege
    ) as text
    from relations r
    cross join lateral (
        select e.grantee::regrole::text as grantee, lower(e.privilege_type) as privilege,
            string_agg(a.attname, ', ' order by a.attnum) as columns
        from pg_attribute a cross join aclexplode(a.attacl) e
        where a.attrelid = r.oid and e.grantee <> r.relowner
        group by e.grantee, e.privilege_type
    ) g
    group by r.oid
),
columns as (
    select a.attrelid as oid, string_agg(concat_ws(' ',
        '    ' || quote_ident(a.attname),
        format_type(a.atttypid, a.atttypmod),
        case when a.attcollation <> t.typcollation then 'collate ' || quote_ident(l.collname) end,
        case when a.attnotnull then 'not null' end,
        case
            when a.attidentity = 'a' then 'generated always as identity'
            when a.attgenerated = 's' then
                'generated always as (' || pg_get_expr(d.adbin, d.adrelid) || ') stored'
            when d.oid is not null then 'default ' || pg_get_expr(d.adbin, d.adrelid)
        end
    ), E',\n' order by a.attnum) as text
    from pg_attribute a
    join pg_type t on t.oid = a.atttypid
    left join pg_collation l on l.oid = a.attcollation
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attnum > 0 and not a.attisdropped
    group by a.attrelid
),
constraints as (
    select c.conrelid as oid, string_agg(
        format('    constraint %I %s', c.conname, pg_get_constraintdef(c.oid)), E',\n'
        order by array_position('{p,u,f,c,x}'::text[], c.contype::text), c.conname
    ) as text
    from pg_constraint c
    where c.contype in ('p', 'u', 'f', 'c', 'x')
    group by c.conrelid
),
indexes as (
    select i.indrelid as oid, string_agg(
        replace(pg_get_indexdef(i.indexrelid), ' USING btree', '') || E';\n', '' order by c.relname
    ) as text
    from pg_index i join pg_class c on c.oid = i.indexrelid
    where not exists (select from pg_constraint k where k.conindid = i.indexrelid)
        and not c.relispartition
    group by i.indrelid
),
policies as (
    select p.polrelid as oid, string_agg(concat_ws(' ',
        format('create policy %I on %s', p.polname, p.polrelid::regclass),
        case p.polcmd when 'r' then 'for select' when 'a' then 'for insert' when 'w' then 'for update'
            when 'd' then 'for delete' end,
        'to ' || array_to_string(array(
            select oid::regrole::text from unnest(p.polroles) oid order by 1
        ), ', '),
        'using (' || regexp_replace(pg_get_expr(p.polqual, p.polrelid), '\s+', ' ', 'g') || ')',
        'with check (' || regexp_replace(pg_get_expr(p.polwithcheck, p.polrelid), '\s+', ' ', 'g') || ')'
    ) || E';\n', '' order by p.polname) as text
    from pg_policy p
    group by p.polrelid
),
triggers as (
    select t.tgrelid as oid, string_agg(pg_get_triggerdef(t.oid) || E';\n', '' order by t.tgname) as text
    from pg_trigger t
    where not t.tgisinternal
    group by t.tgrelid
),
objects (sort, name, text) as (
    select 1, r.name, concat(
        format(E'create type %s as (\n%s\n);\n', r.name, c.text)
    )
    from relations r join columns c using (oid)
    where r.relkind = 'c'
    union all
    select 2, r.name, concat(
        format(E'create sequence %s;\n', r.name), g.text
    )
    from relations r left join rights g using (oid)
    where r.relkind = 'S' and not exists (
        select from pg_depend d
        where d.objid = r.oid and d.deptype = 'i' and d.refclassid = 'pg_class'::regclass
    )
    union all
    select 3, r.name, concat(
        'create ', case when r.relpersistence = 'u' then 'unlogged ' end, 'table ', r.name,
        case when r.relispartition then (
            select format(E' partition of %s %s', i.inhparent::regclass, pg_get_expr(r.relpartbound, r.oid))
            from pg_inherits i where i.inhrelid = r.oid
        ) else
            E' (\n' || concat_ws(E',\n', c.text, k.text) || E'\n)'
        end,
        case when r.relkind = 'p' then ' partition by ' || pg_get_partkeydef(r.oid) end,
        case when r.reloptions is not null then
            ' with (' || array_to_string(r.reloptions, ', ') || ')' end,
        E';\n',
        x.text,
        case when r.relrowsecurity then format(E'alter table %s enable row level security;\n', r.name) end,
        case when r.relforcerowsecurity then
            format(E'alter table %s force row level security;\n', r.name) end,
        p.text, t.text, g.text, h.text
    )
    from relations r
    join columns c using (oid)
    left join constraints k using (oid)
    left join indexes x using (oid)
    left join policies p using (oid)
    left join triggers t using (oid)
    left join rights g using (oid)
    left join column_rights h using (oid)
    where r.relkind in ('r', 'p')
    union all
    select 4, p.oid::regprocedure::text, concat(
        format('-- %s', p.oid::regprocedure),
        ' returns ' || pg_get_function_result(p.oid),
        case when p.prosecdef then ' security definer' end,
        E'\n--     executable by: ',
        case when p.proacl is null then 'public' else coalesce((
            select string_agg(g.name, ', ' order by g.name)
            from aclexplode(p.proacl) a
            cross join lateral (
                select case when a.grantee = 0 then 'public' else a.grantee::regrole::text end as name
            ) g
            where a.grantee <> p.proowner
        ), 'the owner') end,
        E'\n'
    )
    from pg_proc p
    where p.pronamespace in ('app'::regnamespace, 'queue'::regnamespace)
)
select o.text from objects o order by o.sort, o.name collate "C"
