-- A page of a tenant's audit log, newest first. Served by the primary key, or by audit_log_actor,
-- audit_log_action or audit_log_resource.
select seq, at, actor_kind, actor_id, actor_name, action, resource, address, user_agent, request_id,
    before, after, reason, hash
from app.audit_log
where tenant_id = app.current_tenant()
    and seq < coalesce($1::int8, 9223372036854775807)
    and ($2::text is null or actor_id = $2)
    and ($3::text is null or action = $3)
    and ($4::text is null or resource = $4)
    and ($5::timestamptz is null or at >= $5)
    and ($6::timestamptz is null or at < $6)
order by seq desc
limit $7::int8
