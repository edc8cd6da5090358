"""API behavior that the schema cannot express to schemathesis: see schemathesis.toml."""

import itertools
import json
import re

import schemathesis

KEYS = itertools.count()
KEY = re.compile(r'([!#-~][!-~]{0,254}|"([!#-\[\]-~]|\\["\\]){1,255}")')

# The length of a cursor, in characters.
CURSOR = 66


@schemathesis.serializer("application/x-ndjson")
def ndjson(ctx, value):
    """Serializes a job, a list of jobs, or any other generated value as JSON lines."""
    jobs = value if isinstance(value, list) else [value]
    return "".join(json.dumps(job) + "\n" for job in jobs).encode()


@schemathesis.hook
def before_call(ctx, case, kwargs):
    """Makes valid idempotency keys unique per request, and removes generated cursors: a cursor is signed, so
    only one returned by a list is valid. Values generated to be invalid are kept."""
    headers = case.headers or {}
    for name in list(headers):
        key = headers[name]
        if name.lower() == "idempotency-key" and isinstance(key, str) and KEY.fullmatch(key):
            headers[name] = f"fuzz-{next(KEYS)}"
    query = case.query or {}
    cursor = query.get("cursor")
    if isinstance(cursor, str) and len(cursor) != CURSOR:
        del query["cursor"]
