-- Lets the login role $1 enqueue by SQL no more: for the tenant $2, or for none if it is null. See
-- migration 0016. Served by the unique indexes of clients.
select queue.revoke_client($1::text, $2::uuid)
