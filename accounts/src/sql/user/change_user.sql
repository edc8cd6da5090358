-- Changes the given members of a user; a changed email is no longer vouched for by the provider. Served by
-- the primary key.
update app.users
set email = coalesce($3::text, email),
    name = coalesce($4::text, name),
    disabled_at = case when $5::bool then coalesce(disabled_at, now()) when not $5::bool then null
        else disabled_at end,
    oidc_issuer = case when $3::text <> email then null else oidc_issuer end,
    oidc_subject = case when $3::text <> email then null else oidc_subject end,
    updated_at = now()
where tenant_id = $1 and id = $2
returning id
