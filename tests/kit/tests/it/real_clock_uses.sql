-- Objects that read the real clock instead of the kit's: defaults, views, rules, policies and
-- checks bound to it, functions whose own search path does not begin with the kit's, and
-- functions whose body was bound at creation. One pass over the catalogue.
with ours as (
    select oid from pg_namespace where nspname in ('queue', 'app')
)
select format('default of %s.%I', d.adrelid::regclass, a.attname)
from pg_attrdef d
join pg_class c on c.oid = d.adrelid
join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
where c.relnamespace in (select oid from ours)
  and pg_get_expr(d.adbin, d.adrelid) ~ 'pg_catalog\.(now|\w+_timestamp)\('
union all
select format('%s: search path', p.oid::regprocedure)
from pg_proc p cross join unnest(p.proconfig) setting
where p.pronamespace in (select oid from ours)
  and setting like 'search\_path=%' and setting !~ '^search_path=kit,'
union all
select format('%s: bound body', p.oid::regprocedure)
from pg_proc p
where p.pronamespace in (select oid from ours) and p.prosqlbody is not null
  and pg_get_functiondef(p.oid) ~ '(now|_timestamp)\('
union all
select format('view %I.%I', schemaname, viewname)
from pg_views
where schemaname in ('queue', 'app') and definition ~ 'pg_catalog\.(now|\w+_timestamp)\('
union all
select format('check %I of %s', conname, conrelid::regclass)
from pg_constraint
where connamespace in (select oid from ours) and contype = 'c'
  and pg_get_constraintdef(oid) ~ 'pg_catalog\.(now|\w+_timestamp)\('
union all
select format('policy %I of %I.%I', policyname, schemaname, tablename)
from pg_policies
where schemaname in ('queue', 'app')
  and coalesce(qual, '') || coalesce(with_check, '') ~ 'pg_catalog\.(now|\w+_timestamp)\('
order by 1
