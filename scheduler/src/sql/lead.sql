-- Takes or keeps the lead. A new holder, or one whose lease had expired, begins a new term.
insert into app.leaders as l (role, holder, term, expires_at)
values ('scheduler', $1::uuid, 1, now() + $2::float8 * interval '1 second')
on conflict (role) do update
set holder = excluded.holder,
    term = case
        when l.holder = excluded.holder and l.expires_at > now() then l.term
        else l.term + 1
    end,
    expires_at = excluded.expires_at
where l.holder = excluded.holder or l.expires_at <= now()
returning term
