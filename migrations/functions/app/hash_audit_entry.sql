-- The hash of an entry that follows the hash p_before. The hashed text is a JSON array, so that no entry can be read as
-- a different one.
create or replace function app.hash_audit_entry(p_before bytea, p_entry app.audit_log) returns bytea
language sql stable set search_path = pg_catalog, pg_temp
return sha256(p_before || convert_to(jsonb_build_array(
    p_entry.tenant_id, p_entry.seq, (extract(epoch from p_entry.at) * 1000000)::int8,
    p_entry.actor_kind, p_entry.actor_id, p_entry.actor_name, p_entry.action, p_entry.resource,
    p_entry.address, p_entry.user_agent, p_entry.request_id, p_entry.before, p_entry.after,
    p_entry.reason
)::text, 'UTF8'));
