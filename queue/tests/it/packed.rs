//! Helpers that write packed rows as the engine does: parcels, pieces split off them, merged rows, and
//! members that left.

use chrono::{DateTime, Duration, TimeZone, Utc};
use harkara_queue::job::JobState;
use harkara_queue::read;
use harkara_shared::database::{TenantTx, query, query_scalar};
use harkara_shared::id::{JobId, TenantId};
use serde_json::{Map, Value, json};

use crate::support::Fixture;

/// The number of parcels in one block; merged rows are searched within a block.
pub(crate) const BLOCK: i64 = 1024;

/// The id of the job at `position` in `parcel`.
pub(crate) fn at(parcel: i64, position: i64) -> i64 {
    parcel * 1024 + position
}

/// A fixed time plus `seconds`.
pub(crate) fn moment(seconds: i64) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 1, 1, 0, 0, 0).unwrap() + Duration::seconds(seconds)
}

/// The bodies of these jobs; each payload is the job's own id.
pub(crate) fn bodies(jobs: impl IntoIterator<Item = i64>) -> Value {
    jobs.into_iter()
        .map(|job| {
            let body = format!(r#"{{"p":{job},"t":1000}}"#);
            let hex: String = body.bytes().map(|byte| format!("{byte:02x}")).collect();
            json!(format!("\\x{hex}"))
        })
        .collect()
}

/// A row of `n` jobs starting at `lo`; `more` sets further columns.
pub(crate) fn row(id: i64, part: i64, lo: i64, n: i64, state: &str, more: Value) -> Value {
    let mut row: Map<String, Value> = Map::new();
    let usual = json!({
        "id": id, "part": part, "lo": lo, "n": n, "state": state,
        "body": bodies((0..n).map(|i| at(id, lo + i))),
    });
    for columns in [usual, more] {
        let Value::Object(columns) = columns else {
            panic!("expected an object of columns: {columns}")
        };
        row.extend(columns);
    }
    Value::Object(row)
}

/// A member that left its row.
pub(crate) fn left(job: i64, state: &str, more: Value) -> Value {
    let position = job % 1024;
    row(job / 1024, -position - 1, position, 1, state, more)
}

/// A row merged from these jobs.
pub(crate) fn merged(jobs: &[i64], state: &str, more: Value) -> Value {
    let n = i64::try_from(jobs.len()).unwrap();
    let Value::Object(mut row) = row(jobs[0] / 1024, 0, 0, n, state, more) else {
        panic!("expected an object of columns")
    };
    row.insert("ids".to_owned(), json!(jobs));
    row.insert("body".to_owned(), bodies(jobs.iter().copied()));
    Value::Object(row)
}

impl Fixture {
    /// Writes rows of the fixture's tenant. Columns that are not given get default values.
    pub(crate) async fn put(&self, rows: &[Value]) {
        self.put_for(self.tenant, rows).await;
    }

    pub(crate) async fn put_for(&self, tenant: TenantId, rows: &[Value]) {
        for prepare in [
            "insert into queue.kinds (name) values ('test.job'), ('test.other')
             on conflict do nothing",
            "insert into queue.queues (name) values ('default'), ('other') on conflict do nothing",
            "insert into queue.workers (id, host, pid, version, queues)
             values ('00000000-0000-7000-8000-000000000000', 'h', 1, '0', '{}')
             on conflict do nothing",
            "insert into queue.leases (worker_id, expires_at)
             select id, now() + interval '1 hour' from queue.workers
             where not exists (select from queue.leases)",
        ] {
            self.execute(prepare).await;
        }
        query("insert into queue.tenants (id) values ($1) on conflict do nothing")
            .bind(tenant)
            .execute(&self.pool())
            .await
            .unwrap();
        query(
            "insert into queue.lanes (queue, tenant)
             select q.id, t.number from queue.queues q, queue.tenants t where t.id = $1
             on conflict do nothing",
        )
        .bind(tenant)
        .execute(&self.pool())
        .await
        .unwrap();
        query(
            "insert into queue.parcels (
                tenant, id, part, lane, run_at, created_at, started_at, finished_at, lease, token,
                queue, kind, priority, attempt, max_attempts, lo, n, state, keyed, strict, lost,
                probe, ids, created, due, acked, acked_at, gone, cancelling, limiters, error_code,
                error_message, results, body
             )
             select t.number, r.id, r.part, coalesce(r.lane, l.id), coalesce(r.run_at, now()),
                coalesce(r.created_at, now()),
                coalesce(r.started_at, case when r.state not in ('s', 'a') then now() end),
                coalesce(r.finished_at, case when r.state in ('d', 'x', 'c') then now() end),
                case when r.state not in ('s', 'a') then 1 end, case when r.state = 'r' then r.id end,
                l.queue, coalesce(r.kind, 1), 5, coalesce(r.attempt, (r.state not in ('s', 'a'))::int),
                3, r.lo, r.n, r.state, coalesce(r.keyed, false), coalesce(r.strict, false),
                coalesce(r.lost, false), coalesce(r.probe, false), r.ids, r.created, r.due, r.acked,
                r.acked_at, r.gone, r.cancelling, r.limiters, r.error_code, r.error_message, r.results,
                r.body
             from jsonb_populate_recordset(null::queue.parcels, $2) r
             join queue.tenants t on t.id = $1
             join queue.lanes l on l.tenant = t.number and l.queue = coalesce(r.queue, 1)
                and l.key = '' and l.limits = ''",
        )
        .bind(tenant)
        .bind(Value::Array(rows.to_vec()))
        .execute(&self.pool())
        .await
        .unwrap();
    }

    /// Every job of the tenant with its state, oldest first.
    pub(crate) async fn all(&self) -> Vec<(i64, JobState)> {
        let mut tx = TenantTx::begin(&self.pool(), self.tenant).await.unwrap();
        let filter = read::JobFilter::default();
        let mut jobs = read::list(&mut tx, self.tenant, &filter, None, 10_000)
            .await
            .unwrap()
            .jobs;
        jobs.reverse();
        jobs.iter()
            .map(|job| (job.id.as_i64(), job.state))
            .collect()
    }

    /// One column of the row at (`id`, `part`), as text.
    pub(crate) async fn column(&self, id: i64, part: i16, sql: &'static str) -> Option<String> {
        query_scalar(sql)
            .bind(id)
            .bind(part)
            .fetch_one(&self.pool())
            .await
            .unwrap()
    }
}

pub(crate) fn job_id(number: i64) -> JobId {
    JobId::from_i64(number)
}
