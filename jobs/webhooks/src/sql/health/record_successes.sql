-- Records a success of the endpoints $2: failing ones become healthy, and the rate of slowed ones is
-- doubled, after a minute without another 429, until it is the original one. A disabled endpoint stays so
-- when a test succeeds. Returns the endpoints that change, with the values that they had before. Served by the primary
-- key; the others are not written.
with changed as materialized (
    select
        e.id, e.url, e.failing_since, e.failures, e.alerted,
        e.slowed_to is not null and e.slowed_at < now() - interval '1 minute' as rate_raised
    from app.webhook_endpoints e
    where e.tenant_id = $1 and e.id = any ($2::uuid[]) and e.status <> 'disabled'
      and (
          e.failing_since is not null or e.alerted > 0
          or e.slowed_to is not null and e.slowed_at < now() - interval '1 minute'
      )
    order by e.id
    for no key update
),
written as (
    update app.webhook_endpoints e
    set failing_since = null, failures = 0, alerted = 0,
        slowed_to = case
            when not c.rate_raised then e.slowed_to
            when e.slowed_to * 2 >= coalesce(e.rate_per_second, 1000) then null
            else e.slowed_to * 2
        end,
        slowed_at = case when c.rate_raised then now() else e.slowed_at end
    from changed c
    where e.tenant_id = $1 and e.id = c.id
)
select c.id, c.url, c.failing_since, c.failures, c.alerted, c.rate_raised from changed c
