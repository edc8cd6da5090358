-- The endpoint that the tenant's contract was set up with, locked until it is replaced. Served by the
-- primary key.
select contract_endpoint_id from app.tenants where id = app.current_tenant() for no key update
