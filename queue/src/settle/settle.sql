-- Writes how runs ended, under their fence, and returns the positions of the rows that were written: see
-- queue.settle.
select queue.settle(
    $1::int4[], $2::bigint[], $3::int2[], $4::bigint[], $5::text[], $6::bool[], $7::jsonb[],
    $8::int4[], $9::bigint[],
    $10::int4[], $11::int2[], $12::jsonb[],
    $13::int4[], $14::int2[], $15::bigint[], $16::text[], $17::bigint[], $18::bool[], $19::bool[],
    $20::int2[], $21::text[], $22::text[], $23::text[],
    $24::int4[], $25::int4[], $26::int4[], $27::int4[], $28::int4[]
)
