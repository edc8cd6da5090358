-- The id of member p_member (1 .. n) of a row with these columns. One expression, so that it is inlined into the
-- calling statement.
create or replace function queue.job_id(p_id bigint, p_lo int2, p_ids bigint[], p_member int4) returns bigint
language sql immutable as $$
    select coalesce(p_ids[p_member], p_id * 1024 + p_lo + p_member - 1)
$$;

revoke execute on function queue.job_id(bigint, int2, bigint[], int4) from public;
grant execute on function queue.job_id(bigint, int2, bigint[], int4) to harkara_app, harkara_engine;
