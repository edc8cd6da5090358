// pg-boss. Its documentation leaves throughput to batches: `fetch` and `complete` of 1000 jobs in
// four loops side by side, its public calls and the fastest form known. Its own worker,
// `work()` with `burstWhenBatchFull`, is about a fifth slower; its default of one job every two
// seconds is not measured. Latency: LISTEN/NOTIFY on, as its documentation advises for low latency.
import { PgBoss } from 'pg-boss';

import { main } from './common.mjs';

const queue = 'noop';
const batch = 1000;
// Fetching goes on at once while batches are full.
const working = { batchSize: 10, pollingIntervalSeconds: 0.5, burstWhenBatchFull: true };
let boss;

const start = async () => {
  boss = new PgBoss({
    connectionString: process.env.DATABASE_URL,
    max: 16,
    schedule: false,
    useListenNotify: true,
  });
  boss.on('error', console.error);
  await boss.start();
};

async function loop(handle, going) {
  while (going.on) {
    const jobs = await boss.fetch(queue, { batchSize: batch });
    if (jobs.length === 0) {
      await new Promise((done) => setTimeout(done, 5));
      continue;
    }
    await boss.complete(queue, jobs.map((job) => job.id));
    handle(jobs.length);
  }
}

await main({
  async setup() {
    await start();
    await boss.createQueue(queue, { notify: true });
    await boss.stop({ graceful: false });
  },
  open: start,
  enqueue: (data) => boss.send(queue, data),
  enqueueMany: (list) => boss.insert(queue, list.map((data) => ({ data }))),
  async work(handle, mode) {
    if (mode === 'latency') {
      for (let workers = 0; workers < 2; workers++) {
        await boss.work(queue, working, async (jobs) => {
          for (const job of jobs) handle(1, job.data);
        });
      }
      return () => boss.offWork(queue);
    }
    const going = { on: true };
    const loops = Promise.all(Array.from({ length: 4 }, () => loop(handle, going)));
    return () => {
      going.on = false;
      return loops;
    };
  },
  close: () => boss.stop({ graceful: false }),
});
