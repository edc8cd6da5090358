-- Removes a tenant's other rows, table by table. See queue.erase_rows, which names the indexes.
select queue.erase_rows($1::int4, $2::text, $3::int4)
