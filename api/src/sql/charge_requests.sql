-- Charges requests of a subject under all of its policies, or none: see
-- migrations/functions/app/charge_requests.sql. Served by request_counters_pkey.
select granted, remaining, reset, retry, hold, moment
from app.charge_requests(
    $1::text, $2::text[], $3::text[], $4::int8[], $5::int8[], $6::int8[],
    $7::int4, $8::int4, $9::int8, $10::int4, $11::int8
)
