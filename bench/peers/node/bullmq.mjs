// BullMQ on Redis, for reference: Redis answers before the job is on the disk (append-only file,
// synced every second). 100 jobs at once, as its documentation advises for jobs that wait on I/O,
// and finished jobs removed.
import { Queue, Worker } from 'bullmq';
import { Redis } from 'ioredis';

import { main } from './common.mjs';

const connect = () => new Redis({ path: process.env.REDIS_SOCKET, maxRetriesPerRequest: null });
const options = { removeOnComplete: true, removeOnFail: true };
let queue;

await main({
  async setup() {
    const redis = connect();
    await redis.flushall();
    await redis.quit();
  },
  async open() {
    queue = new Queue('noop', { connection: connect() });
    await queue.waitUntilReady();
  },
  enqueue: (data) => queue.add('noop', data, options),
  enqueueMany: (list) => queue.addBulk(list.map((data) => ({ name: 'noop', data, opts: options }))),
  async work(handle, mode) {
    const worker = new Worker('noop', async (job) => handle(1, job.data), {
      connection: connect(),
      concurrency: mode === 'default' ? 1 : 100,
    });
    await worker.waitUntilReady();
    return () => worker.close();
  },
  close: () => queue.close(),
});
