-- Sets the database's clock. $1 the moment. One row.
update kit.clock set at = $1
