-- Removes the usage of single keys in months that ended more than 24 months ago. Served by no index, like
-- close_usage.
delete from app.usage
where month < date_trunc('month', now() at time zone 'utc') - interval '24 months'
