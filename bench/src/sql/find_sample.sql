-- The id of a job of tenant $2 from the middle of the table: in a packed row (p), a merged one (m), a
-- row of its own (s); or of none, among rows of their own (n): the dearest to look for. Served by the primary key.
select case
    when $1::text = 'n' then r.id * 1024 + 5
    when r.ids is not null then r.ids[250]
    when r.n > 1 then r.id * 1024 + 250
    else r.id * 1024
end
from (
    select p.id, p.n, p.ids
    from queue.parcels p
    where p.tenant = $2::int4 and p.state = 'd'
      and case $1::text
          when 'p' then p.n > 1 and p.ids is null
          when 'm' then p.ids is not null
          else p.n = 1
      end
    order by p.id
    limit 2000
) r
order by r.id desc
limit 1
