-- Where the database's clock stands. One row.
select at from kit.clock
