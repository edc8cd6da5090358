-- A job's public id: job_ and 13 digits of Crockford's base 32.
create or replace function queue.format_job_id(p_job bigint) returns text
language sql immutable strict as $$
    select 'job_' || string_agg(
        substr('0123456789abcdefghjkmnpqrstvwxyz', ((p_job >> (5 * place)) & 31)::int4 + 1, 1), ''
        order by place desc
    )
    from generate_series(0, 12) place
$$;

revoke execute on function queue.format_job_id(bigint) from public;
grant execute on function queue.format_job_id(bigint) to harkara_engine;
