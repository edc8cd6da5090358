-- Schedules that are due or have never been looked at. Served by schedules_next.
select id from app.schedules
where not paused and (next_slot is null or next_slot <= now())
order by next_slot nulls first
limit 1000
