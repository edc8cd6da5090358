-- What bodies weigh in queue.parcels.bytes: null up to 1024 bytes.
create or replace function queue.weight(p_body bytea[]) returns int4
language sql immutable as $$
    select case when sum(octet_length(b)) > 1024 then sum(octet_length(b))::int4 end
    from unnest(p_body) b
$$;

revoke execute on function queue.weight(bytea[]) from public;
grant execute on function queue.weight(bytea[]) to harkara_app, harkara_engine;
