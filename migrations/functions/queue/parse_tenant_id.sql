-- The UUID of a tenant's public id: ten_ and 26 digits of Crockford's base 32; null for other text.
create or replace function queue.parse_tenant_id(p_text text) returns uuid
language sql immutable strict as $$
    select case when p_text ~ '^ten_[0-7][0-9a-hjkmnp-tv-z]{25}$' then (
        select string_agg(to_hex(substr(b.bits, 4 * nibble + 3, 4)::bit(4)::int4), '' order by nibble)
        from (
            select string_agg(
                (strpos('0123456789abcdefghjkmnpqrstvwxyz', substr(p_text, place, 1)) - 1)::bit(5)::text,
                '' order by place
            ) as bits
            from generate_series(5, 30) place
        ) b
        cross join generate_series(0, 31) nibble
    )::uuid
    when p_text ~* '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' then p_text::uuid end
$$;

revoke execute on function queue.parse_tenant_id(text) from public;
grant execute on function queue.parse_tenant_id(text) to harkara_engine;
