-- Revokes the right of login role $1 to enqueue by SQL for tenant $2, or for all if it is null. See
-- queue.revoke_client. Served by the unique indexes of clients.
select queue.revoke_client($1::text, $2::uuid)
