-- Removes what single keys used in months that were over 24 months ago. Served by no index, as close_usage.
delete from app.usage
where month < date_trunc('month', now() at time zone 'utc') - interval '24 months'
