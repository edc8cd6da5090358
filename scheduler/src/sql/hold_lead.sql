-- Confirms the lead. The lock keeps a successor from taking over before this transaction ends.
select true from app.leaders
where role = 'scheduler' and holder = $1::uuid and term = $2::int8 and expires_at > now()
for share
