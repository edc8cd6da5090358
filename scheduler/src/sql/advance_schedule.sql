-- Advances a schedule to its next slot. Served by its unique id.
update app.schedules
set next_slot = coalesce($2::timestamptz, 'infinity'), last_slot = coalesce($3::timestamptz, last_slot)
where id = $1::uuid
