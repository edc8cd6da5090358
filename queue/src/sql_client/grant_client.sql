-- Lets the login role $1 enqueue by SQL for tenant $2, or for all if it is null. See queue.grant_client.
-- Served by the unique indexes of clients.
select queue.grant_client($1::text, $2::uuid)
