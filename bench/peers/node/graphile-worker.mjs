// graphile-worker. Tuned as its page on performance (worker.graphile.org/docs/performance) advises
// for many small jobs: a local queue of 500, a refetch delay of 10 ms, completions in batches
// without delay, 24 jobs at once. Latency is measured with its defaults, which are better there: a
// local queue trades latency for throughput.
import { Logger, makeWorkerUtils, run } from 'graphile-worker';

import { main } from './common.mjs';

const logger = new Logger(() => () => {});
const connectionString = process.env.DATABASE_URL;
const modes = {
  drain: {
    concurrentJobs: 24,
    maxPoolSize: 26,
    localQueue: { size: 500, refetchDelay: { durationMs: 10 } },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  },
  default: { concurrentJobs: 24, maxPoolSize: 26 },
  latency: { concurrentJobs: 10 },
};
let utils;

await main({
  async setup() {
    const setup = await makeWorkerUtils({ connectionString, logger });
    await setup.migrate();
    await setup.release();
  },
  async open() {
    utils = await makeWorkerUtils({ connectionString, logger, maxPoolSize: 16 });
  },
  enqueue: (data) => utils.addJob('noop', data),
  enqueueMany: (list) => utils.addJobs(list.map((payload) => ({ identifier: 'noop', payload }))),
  async work(handle, mode) {
    const runner = await run({
      preset: { worker: { connectionString, logger, ...modes[mode] } },
      noHandleSignals: true,
      taskList: { noop: (payload) => handle(1, payload) },
    });
    return () => runner.stop();
  },
  close: () => utils.release(),
});
