-- Records that a canceled tenant is to be erased; no row when it is not canceled. Served by the primary
-- key.
update app.tenants
set erasure_asked_at = coalesce(erasure_asked_at, now()), updated_at = now()
where id = $1::uuid and status = 'canceled'
returning true
