-- Deletes a user with their grants, sessions and links. Served by the primary key.
delete from app.users where tenant_id = $1 and id = $2 returning id
