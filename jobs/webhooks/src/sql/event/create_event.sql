-- Creates an event; no row when its id exists.
insert into app.events (tenant_id, id, type, data, channels, ordering_key, version)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict do nothing
returning true
