-- A new event; answers nothing when its id is known.
insert into app.events (tenant_id, id, type, data)
values ($1, $2, $3, $4)
on conflict do nothing
returning true
