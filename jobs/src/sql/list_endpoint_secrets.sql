-- Secrets that sign now, the current one first. Served by the primary key.
select sealed from app.endpoint_secrets
where tenant_id = $1 and endpoint_id = $2 and (expires_at is null or expires_at > now())
order by expires_at is not null, created_at desc
