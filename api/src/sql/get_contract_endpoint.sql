-- The endpoint that the tenant's contract was set up with, held until it is set up anew. Served by the
-- primary key.
select contract_endpoint_id from app.tenants where id = app.current_tenant() for no key update
