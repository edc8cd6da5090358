// What all peers on Node.js share: the commands, the clocks, and the one line of
// JSON that is the result.
//
//   setup                     make the schema (once a database)
//   bulk N                    enqueue N jobs, 1000 a call
//   single CALLERS N          enqueue N jobs, one a call, CALLERS at a time
//   drain N [default]         run N jobs; tuned for throughput, or with the author's defaults
//   latency N RATE            enqueue N jobs at RATE a second and run them as they come
//
// A peer exports: setup(), open(), enqueue(data), enqueueMany(list of data), work(handle, mode),
// which returns a function that stops the worker, and close(). Its mode is `drain`, `default` or
// `latency`.

/** The same 48 bytes of JSON for every contender. */
const payload = () => ({ nothing: 'to do, in forty-eight bytes or so' });

const now = () => performance.now();
const seconds = (from) => (now() - from) / 1000;
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export async function main(peer) {
  const [verb, ...words] = process.argv.slice(2);
  const verbs = { setup: () => peer.setup(), bulk, single, drain, latency };
  const answer = (await verbs[verb](peer, ...words.map((word) => Number(word) || word))) ?? {};
  console.log(JSON.stringify(answer));
  // Some libraries leave timers and connections behind.
  process.exit(0);
}

async function bulk(peer, jobs) {
  await peer.open();
  const from = now();
  for (let done = 0; done < jobs; done += 1000) {
    await peer.enqueueMany(Array.from({ length: Math.min(1000, jobs - done) }, payload));
  }
  const took = seconds(from);
  await peer.close();
  return { jobs, seconds: took };
}

async function single(peer, callers, jobs) {
  await peer.open();
  await peer.enqueue(payload());
  const each = Math.floor(jobs / callers);
  const from = now();
  await Promise.all(
    Array.from({ length: callers }, async () => {
      for (let nth = 0; nth < each; nth++) await peer.enqueue(payload());
    }),
  );
  const took = seconds(from);
  await peer.close();
  return { jobs: each * callers, seconds: took };
}

// The clock stops when the last handler has run (for a fetch loop: when its batch is completed), so
// that no peer pays for the time of its shutdown.
async function drain(peer, jobs, mode) {
  await peer.open();
  let done = 0;
  let all;
  const ended = new Promise((done) => (all = done));
  const from = now();
  const stop = await peer.work((count) => {
    done += count;
    if (done >= jobs) all(seconds(from));
  }, mode ?? 'drain');
  const took = await ended;
  await Promise.race([stop(), sleep(15000)]);
  await peer.close();
  return { jobs, seconds: took };
}

async function latency(peer, jobs, rate) {
  await peer.open();
  // The first ones meet cold caches and connections and are not counted.
  const warm = 20;
  const called = [];
  const waits = [];
  let all;
  const ended = new Promise((done) => (all = done));
  const stop = await peer.work((_, data) => {
    if (data.n >= warm) waits.push(now() - called[data.n]);
    if (waits.length === jobs) all();
  }, 'latency');
  await sleep(500);
  const from = now();
  const calls = [];
  for (let n = 0; n < jobs + warm; n++) {
    const due = from + (n * 1000) / rate;
    while (now() < due) await sleep(Math.max(0, due - now() - 0.5));
    called[n] = now();
    calls.push(peer.enqueue({ n }));
  }
  await Promise.all(calls);
  await Promise.race([ended, sleep(20000)]);
  const lost = jobs - waits.length;
  await Promise.race([stop(), sleep(15000)]);
  await peer.close();
  waits.sort((a, b) => a - b);
  const at = (share) => waits[Math.min(waits.length - 1, Math.round((waits.length - 1) * share))];
  return { jobs, lost, p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1) };
}
