-- Waits until claims that began before this moment have ended. See migration 0009.
select queue.wait_for_claims()::text
