-- The current time of the database's clock. One row.
select at from kit.clock
