-- Users bound to a provider's subject, and users it can be bound to: those with the email that the
-- provider vouches for and without a subject. In one tenant or in all. Served by users_subject and
-- users_email.
select u.tenant_id, t.slug as tenant_slug, u.id, u.email,
    u.oidc_subject is not null as is_bound
from app.users u
join app.tenants t on t.id = u.tenant_id
where (
        (u.oidc_issuer = $1::text and u.oidc_subject = $2::text)
        or (u.oidc_subject is null and u.email = $3::text)
    )
    and u.disabled_at is null and ($4::text is null or t.slug = $4::text)
order by u.created_at, u.id
limit 20
