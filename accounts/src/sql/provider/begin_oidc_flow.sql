-- Records a sign-in that begins, and removes abandoned ones. Served by oidc_flows_expiry.
with old as (
    delete from app.oidc_flows
    where state_hash in (
        select state_hash from app.oidc_flows where expires_at < now() limit 100 for update skip locked
    )
)
insert into app.oidc_flows (state_hash, browser_hash, sealed, expires_at)
values ($1::bytea, $2::bytea, $3::bytea, now() + make_interval(secs => $4::float8))
