-- Waits until claims that began before this moment have ended. See queue.wait_for_claims.
select queue.wait_for_claims()::text
