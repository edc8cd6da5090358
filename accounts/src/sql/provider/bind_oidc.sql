-- Binds a user to a provider's subject; no row when another sign-in did so first. Served by the primary
-- key.
update app.users set oidc_issuer = $3::text, oidc_subject = $4::text, updated_at = now()
where tenant_id = $1 and id = $2 and disabled_at is null
    and (oidc_subject is null or (oidc_issuer = $3::text and oidc_subject = $4::text))
returning id
