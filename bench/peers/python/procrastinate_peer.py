"""procrastinate. The same commands as ../node/common.mjs.

Tuned as its documentation advises for I/O-bound tasks: one process, 20 tasks at once, successful
jobs deleted, LISTEN/NOTIFY on. Its worker fetches and finishes jobs one by one.
"""

import asyncio
import json
import logging
import os
import sys
import time

from procrastinate import App, PsycopgConnector

WARM = 20
logging.disable(logging.WARNING)
app = App(connector=PsycopgConnector(conninfo=os.environ["DATABASE_URL"], max_size=24))
handle = lambda task: None


@app.task(name="noop", pass_context=False)
async def noop(**payload):
    handle(payload)


def nothing():
    return {"nothing": "to do, in forty-eight bytes or so"}


async def setup():
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
    return {}


async def bulk(jobs):
    async with app.open_async():
        start = time.perf_counter()
        for done in range(0, jobs, 1000):
            await noop.batch_defer_async(*[nothing() for _ in range(min(1000, jobs - done))])
        return {"jobs": jobs, "seconds": time.perf_counter() - start}


async def single(callers, jobs):
    each = jobs // callers

    async def caller():
        for _ in range(each):
            await noop.defer_async(**nothing())

    async with app.open_async():
        await noop.defer_async(**nothing())
        start = time.perf_counter()
        await asyncio.gather(*[caller() for _ in range(callers)])
        return {"jobs": each * callers, "seconds": time.perf_counter() - start}


def work(concurrency):
    worker = app.run_worker_async(
        concurrency=concurrency,
        delete_jobs="successful",
        install_signal_handlers=False,
    )
    return asyncio.create_task(worker)


async def stop(worker):
    worker.cancel()
    await asyncio.wait([worker], timeout=15)


async def drain(jobs, mode="drain"):
    global handle
    ended = asyncio.Event()
    left = jobs

    def count(_):
        nonlocal left
        left -= 1
        if left == 0:
            ended.set()

    handle = count
    async with app.open_async():
        start = time.perf_counter()
        worker = work(1 if mode == "default" else 20)
        await ended.wait()
        took = time.perf_counter() - start
        await stop(worker)
    return {"jobs": jobs, "seconds": took}


async def latency(jobs, rate):
    global handle
    called, waits = [], []
    ended = asyncio.Event()

    def started(payload):
        if payload["n"] >= WARM:
            waits.append((time.perf_counter() - called[payload["n"]]) * 1000)
        if len(waits) == jobs:
            ended.set()

    handle = started
    async with app.open_async():
        worker = work(20)
        await asyncio.sleep(0.5)
        start = time.perf_counter()
        calls = []
        for n in range(jobs + WARM):
            await asyncio.sleep(max(0, start + n / rate - time.perf_counter()))
            called.append(time.perf_counter())
            calls.append(asyncio.create_task(noop.defer_async(n=n)))
        await asyncio.gather(*calls)
        await asyncio.wait([asyncio.create_task(ended.wait())], timeout=20)
        await stop(worker)
    waits.sort()
    at = lambda share: waits[round((len(waits) - 1) * share)]
    lost = jobs - len(waits)
    return {"jobs": jobs, "lost": lost, "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": at(1)}


if __name__ == "__main__":
    verb = {"setup": setup, "bulk": bulk, "single": single, "drain": drain, "latency": latency}
    words = [int(word) if word.isdigit() else word for word in sys.argv[2:]]
    print(json.dumps(asyncio.run(verb[sys.argv[1]](*words))))
