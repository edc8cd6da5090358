-- Value of queue.parcels.bytes for these bodies: null up to 1024 bytes.
create or replace function queue.body_bytes(p_body bytea[]) returns int4
language sql immutable as $$
    select case when sum(octet_length(b)) > 1024 then sum(octet_length(b))::int4 end
    from unnest(p_body) b
$$;

revoke execute on function queue.body_bytes(bytea[]) from public;
grant execute on function queue.body_bytes(bytea[]) to harkara_app, harkara_engine;
