-- Records when keys were last used, to the minute; a key that was recorded within the last minute is
-- skipped. Locked in the order of keys, so that replicas do not deadlock. Served by api_keys_id_key.
with due as (
    select k.tenant_id, k.id, c.used_at
    from unnest($1::uuid[], $2::timestamptz[]) as c (key, used_at)
    join app.api_keys k on k.id = c.key
    where k.last_used_at is null or k.last_used_at < c.used_at - interval '1 minute'
    order by k.id
    for no key update of k
)
update app.api_keys k set last_used_at = due.used_at
from due
where k.tenant_id = due.tenant_id and k.id = due.id
