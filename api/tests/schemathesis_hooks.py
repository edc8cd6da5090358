"""What schemathesis cannot know of the API: see schemathesis.toml."""

import itertools
import json
import re

import schemathesis

KEYS = itertools.count()
KEY = re.compile(r'([!#-~][!-~]{0,254}|"([!#-\[\]-~]|\\["\\]){1,255}")')

# Characters of a cursor.
CURSOR = 66


@schemathesis.serializer("application/x-ndjson")
def ndjson(ctx, value):
    """A body of lines: one job, a list of them, or whatever else was made up."""
    jobs = value if isinstance(value, list) else [value]
    return "".join(json.dumps(job) + "\n" for job in jobs).encode()


@schemathesis.hook
def before_call(ctx, case, kwargs):
    """Good idempotency keys stand for one request each, and a cursor is signed: no other is good but those
    that a list has answered. What is made up to be wrong is left as it is."""
    headers = case.headers or {}
    for name in list(headers):
        key = headers[name]
        if name.lower() == "idempotency-key" and isinstance(key, str) and KEY.fullmatch(key):
            headers[name] = f"fuzz-{next(KEYS)}"
    query = case.query or {}
    cursor = query.get("cursor")
    if isinstance(cursor, str) and len(cursor) != CURSOR:
        del query["cursor"]
