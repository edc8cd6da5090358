-- Sets the database's clock. $1 the time. One row.
update kit.clock set at = $1
