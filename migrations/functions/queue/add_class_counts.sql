-- Adds two arrays of class counts element by element.
create or replace function queue.add_class_counts(p_one int8[], p_other int8[]) returns int8[]
language sql immutable as $$
    select case
        when p_one is null then p_other
        when p_other is null then p_one
        else array(
            select coalesce(u.one, 0) + coalesce(u.other, 0)
            from rows from (unnest(p_one), unnest(p_other)) with ordinality as u(one, other, nth)
            order by u.nth
        )
    end
$$;

revoke execute on function queue.add_class_counts(bigint[], bigint[]) from public;
grant execute on function queue.add_class_counts(bigint[], bigint[]) to harkara_engine;
