-- Takes the sign-in that returns from the provider, once, for the browser that began it. Served by the
-- primary key.
delete from app.oidc_flows
where state_hash = $1::bytea and browser_hash = $2::bytea and expires_at > now()
returning sealed
