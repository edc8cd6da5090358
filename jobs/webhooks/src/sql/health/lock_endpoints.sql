-- Locks the endpoints $2 in the order of their ids. Served by the primary key.
select e.id from app.webhook_endpoints e
where e.tenant_id = $1 and e.id = any ($2::uuid[])
order by e.id
for no key update
