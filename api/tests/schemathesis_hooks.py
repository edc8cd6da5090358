"""What schemathesis cannot know of the API: see schemathesis.toml."""

import itertools
import json

import schemathesis

KEYS = itertools.count()

# Characters of a cursor.
CURSOR = 66


@schemathesis.serializer("application/x-ndjson")
def ndjson(ctx, value):
    """A body of lines: one job, a list of them, or whatever else was made up."""
    jobs = value if isinstance(value, list) else [value]
    return "".join(json.dumps(job) + "\n" for job in jobs).encode()


@schemathesis.hook
def map_headers(ctx, headers):
    """Good idempotency keys stand for one request each; bad ones are left as they are."""
    key = (headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and key.isascii() and key.isalnum() and len(key) < 240:
        headers["Idempotency-Key"] = f"{key}-{next(KEYS)}"
    return headers


@schemathesis.hook
def map_query(ctx, query):
    """Cursors are signed: no other is good but those that a list has answered."""
    cursor = (query or {}).get("cursor")
    if isinstance(cursor, str) and len(cursor) != CURSOR:
        del query["cursor"]
    return query
