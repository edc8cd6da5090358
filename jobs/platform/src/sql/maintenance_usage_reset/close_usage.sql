-- Closes the months that are over. Served by no index: the table, one row a key and month, is read once a
-- month.
update app.usage set closed_at = now()
where closed_at is null and month < date_trunc('month', now() at time zone 'utc')
