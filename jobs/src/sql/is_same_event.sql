-- Whether the stored event is the one posted again. Found by primary key.
select type = $3::text and data = $4::text from app.events where tenant_id = $1 and id = $2
