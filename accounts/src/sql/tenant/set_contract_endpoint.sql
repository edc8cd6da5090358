-- Records which endpoint a tenant's contract was set up with. Served by the primary key.
update app.tenants set contract_endpoint_id = $1::uuid where id = app.current_tenant()
