-- Waits until claims that began before this moment have ended. See migration 0009.
select queue.let_claims_end()::text
