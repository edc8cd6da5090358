//! Stores idempotency keys and the responses to their requests.
//!
//! A row is reserved, marked in the transaction that does the work, and then completed with the response or
//! released. Responses are stored encrypted only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use harkara_shared::database::{TenantTx, query, query_as};
use harkara_shared::id::TenantId;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres};
use uuid::Uuid;

use crate::ApiState;
use crate::auth::Caller;
use crate::problem::{Code, Problem};

/// How long a request holds its key exclusively. Longer than any handler can run.
const LOCK_DURATION: Duration = Duration::from_secs(60);

/// How long a key is remembered.
const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// Attempts to reserve a key whose row is released concurrently.
const MAX_ATTEMPTS: usize = 3;

/// A key reserved by one request.
#[derive(Debug, Clone)]
pub(crate) struct Reservation(Arc<ReservationKey>);

#[derive(Debug)]
struct ReservationKey {
    tenant: TenantId,
    subject: String,
    method: String,
    route: String,
    key: String,
    /// Distinguishes this request from earlier and later holders of the key.
    token: Uuid,
}

/// A stored response.
#[derive(Debug)]
pub(super) struct StoredResponse {
    /// Rights of the first caller, which a replay requires.
    pub(super) rights: Vec<String>,
    pub(super) status: StatusCode,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

/// Result of reserving a key.
#[derive(Debug)]
pub(super) enum ReserveOutcome {
    /// This request holds the key.
    Reserved(Reservation),
    /// The request has run; this is its response.
    Completed(StoredResponse),
}

#[derive(Debug, sqlx::FromRow)]
struct ExistingRow {
    token: Uuid,
    fingerprint: Vec<u8>,
    state: String,
    status: Option<i16>,
    headers: Option<Json<BTreeMap<String, String>>>,
    body: Option<Vec<u8>>,
    rights: Vec<String>,
    expired: bool,
    abandoned: bool,
}

impl Reservation {
    /// The reservation that a request of the caller would make; [`reserve`] makes it.
    pub(super) fn new(caller: &Caller, method: &Method, route: String, key: String) -> Self {
        Self(Arc::new(ReservationKey {
            tenant: caller.tenant,
            subject: caller.actor().id.clone(),
            method: method.to_string(),
            route,
            key,
            token: Uuid::now_v7(),
        }))
    }

    /// Marks the request as committed, in the transaction that does its work: both commit, or neither.
    ///
    /// # Errors
    /// A problem of status 409 when another request has taken over the key: the transaction must not commit.
    pub(crate) async fn mark_committed(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(), Problem> {
        let marked = self
            .bound(query(include_str!("../sql/idempotency_mark.sql")))
            .execute(connection)
            .await?;
        if marked.rows_affected() == 1 {
            Ok(())
        } else {
            Err(in_progress())
        }
    }

    fn bound<'q>(
        &self,
        query: Query<'q, Postgres, PgArguments>,
    ) -> Query<'q, Postgres, PgArguments> {
        query
            .bind(self.0.tenant)
            .bind(self.0.subject.clone())
            .bind(self.0.method.clone())
            .bind(self.0.route.clone())
            .bind(self.0.key.clone())
            .bind(self.0.token)
    }

    /// Binds the encrypted response to this tenant and the holder of the key.
    fn encryption_context(&self, token: Uuid) -> String {
        format!("app.idempotency/{}/{token}", self.0.tenant)
    }
}

/// Reserves the key, or returns the result of the request that holds it.
///
/// # Errors
/// Problems of status 409 and 422.
pub(super) async fn reserve(
    state: &ApiState,
    reservation: Reservation,
    rights: Vec<String>,
    fingerprint: &[u8; 32],
) -> Result<ReserveOutcome, Problem> {
    let mut tx = TenantTx::begin(state.pool(), reservation.0.tenant).await?;
    for _ in 0..MAX_ATTEMPTS {
        let reserve = query(include_str!("../sql/idempotency_reserve.sql"));
        let reserved = reservation
            .bound(reserve)
            .bind(fingerprint.as_slice())
            .bind(LOCK_DURATION.as_secs_f64())
            .bind(RETENTION.as_secs_f64())
            .bind(&rights)
            .execute(&mut *tx)
            .await?;
        if reserved.rows_affected() == 1 {
            tx.commit().await?;
            return Ok(ReserveOutcome::Reserved(reservation));
        }
        let existing: Option<ExistingRow> = query_as(include_str!("../sql/idempotency_find.sql"))
            .bind(reservation.0.tenant)
            .bind(&reservation.0.subject)
            .bind(&reservation.0.method)
            .bind(&reservation.0.route)
            .bind(&reservation.0.key)
            .fetch_optional(&mut *tx)
            .await?;
        // The row may have been released since.
        let Some(existing) = existing else { continue };
        if !existing.expired {
            if existing.fingerprint != fingerprint {
                return Err(Problem::new(
                    Code::IdempotencyKeyReused,
                    "`Idempotency-Key` was used for a request with another body or path",
                ));
            }
            if existing.state != "running" || !existing.abandoned {
                return existing.replay(state, &reservation);
            }
        }
        let take_over = query(include_str!("../sql/idempotency_take_over.sql"));
        let taken = reservation
            .bound(take_over)
            .bind(fingerprint.as_slice())
            .bind(LOCK_DURATION.as_secs_f64())
            .bind(RETENTION.as_secs_f64())
            .bind(&rights)
            .bind(existing.token)
            .execute(&mut *tx)
            .await?;
        if taken.rows_affected() == 1 {
            tx.commit().await?;
            return Ok(ReserveOutcome::Reserved(reservation));
        }
        // Its transaction is committing, or another request was faster.
        break;
    }
    Err(in_progress())
}

impl ExistingRow {
    /// The result for a repeated request.
    fn replay(
        self,
        state: &ApiState,
        reservation: &Reservation,
    ) -> Result<ReserveOutcome, Problem> {
        let response_lost = || {
            Problem::new(
                Code::IdempotencyOutcomeUnknown,
                "the request ran, but its response is lost; check its effects before a retry",
            )
        };
        match (self.status, self.headers, self.body) {
            (Some(status), Some(Json(headers)), Some(sealed)) => {
                let context = reservation.encryption_context(self.token);
                let body = state.keys().open(&sealed, &context).map_err(|error| {
                    tracing::warn!("could not decrypt a stored response: {error}");
                    response_lost()
                })?;
                let status = u16::try_from(status).map_err(Problem::internal)?;
                let status = StatusCode::from_u16(status).map_err(Problem::internal)?;
                Ok(ReserveOutcome::Completed(StoredResponse {
                    rights: self.rights,
                    status,
                    headers,
                    body,
                }))
            }
            // The request may still complete.
            _ if !self.abandoned => Err(in_progress()),
            _ => Err(response_lost()),
        }
    }
}

/// Stores the response; with `only_committed`, only if the request committed a transaction.
pub(super) async fn store_response(
    state: &ApiState,
    reservation: &Reservation,
    response: &StoredResponse,
    only_committed: bool,
) -> Result<(), Problem> {
    let context = reservation.encryption_context(reservation.0.token);
    let sealed = state.keys().seal(&response.body, &context);
    let sealed = sealed.map_err(Problem::internal)?;
    let mut tx = TenantTx::begin(state.pool(), reservation.0.tenant).await?;
    let status = i16::try_from(response.status.as_u16()).map_err(Problem::internal)?;
    reservation
        .bound(query(include_str!("../sql/idempotency_keep.sql")))
        .bind(status)
        .bind(Json(&response.headers))
        .bind(sealed)
        .bind(only_committed)
        .execute(&mut *tx)
        .await?;
    Ok(tx.commit().await?)
}

/// Releases the key unless the request committed a transaction. Returns whether the key was released.
pub(super) async fn release(state: &ApiState, reservation: &Reservation) -> Result<bool, Problem> {
    let mut tx = TenantTx::begin(state.pool(), reservation.0.tenant).await?;
    let released = reservation
        .bound(query(include_str!("../sql/idempotency_release.sql")))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(released.rows_affected() == 1)
}

fn in_progress() -> Problem {
    Problem::new(
        Code::IdempotencyInProgress,
        "a request with this `Idempotency-Key` is in progress; retry",
    )
}

#[cfg(test)]
mod tests {
    use harkara_shared::audit::Actor;
    use harkara_shared::egress::Egress;
    use harkara_shared::process::Readiness;
    use harkara_shared::vault::MasterKeys;
    use harkara_test_database::TestDatabase;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use harkara_accounts::{NewTenant, SlaTier, create_tenant};

    const REQUEST: [u8; 32] = [7; 32];

    async fn state(database: &TestDatabase) -> (ApiState, TenantId) {
        let pool = database.pool();
        let new = NewTenant {
            slug: "acme".to_owned(),
            name: "Acme".to_owned(),
            sla_tier: SlaTier::Free,
        };
        let tenant = create_tenant(&pool, new, &Actor::system("test"))
            .await
            .unwrap();
        let state = ApiState::new(
            pool.clone(),
            harkara_queue::Engine::new(pool.clone(), false),
            MasterKeys::parse(&MasterKeys::generate()).unwrap(),
            Egress::new(Vec::new()).unwrap(),
            Readiness::for_database(pool, CancellationToken::new()),
            Default::default(),
        );
        (state, tenant.id)
    }

    fn new_reservation(tenant: TenantId) -> Reservation {
        Reservation(Arc::new(ReservationKey {
            tenant,
            subject: "key_x".to_owned(),
            method: "POST".to_owned(),
            route: "/v1/jobs".to_owned(),
            key: "k".to_owned(),
            token: Uuid::now_v7(),
        }))
    }

    async fn reserved(state: &ApiState, tenant: TenantId) -> Reservation {
        match reserve(state, new_reservation(tenant), Vec::new(), &REQUEST)
            .await
            .unwrap()
        {
            ReserveOutcome::Reserved(reservation) => reservation,
            ReserveOutcome::Completed(stored) => panic!("completed already: {stored:?}"),
        }
    }

    async fn expire_locks(state: &ApiState) {
        query("update app.idempotency set locked_until = now() - interval '1 second'")
            .execute(state.pool())
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn request_that_lost_its_key_commits_nothing() {
        let database = TestDatabase::create().await;
        let (state, tenant) = state(&database).await;
        let old = reserved(&state, tenant).await;
        expire_locks(&state).await;
        let new = reserved(&state, tenant).await;
        let mut tx = TenantTx::begin(state.pool(), tenant).await.unwrap();
        let refused = old.mark_committed(&mut tx).await.unwrap_err();
        assert_eq!(refused.code(), Code::IdempotencyInProgress);
        new.mark_committed(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        // Later calls of the old holder have no effect.
        assert!(!release(&state, &old).await.unwrap());
        let response = StoredResponse {
            rights: Vec::new(),
            status: StatusCode::CREATED,
            headers: BTreeMap::new(),
            body: b"new".to_vec(),
        };
        store_response(&state, &old, &response, false)
            .await
            .unwrap();
        let unknown = reserve(&state, new_reservation(tenant), Vec::new(), &REQUEST)
            .await
            .unwrap_err();
        assert_eq!(unknown.code(), Code::IdempotencyInProgress);
        expire_locks(&state).await;
        let unknown = reserve(&state, new_reservation(tenant), Vec::new(), &REQUEST)
            .await
            .unwrap_err();
        assert_eq!(unknown.code(), Code::IdempotencyOutcomeUnknown);
        store_response(&state, &new, &response, false)
            .await
            .unwrap();
        let found = reserve(&state, new_reservation(tenant), Vec::new(), &REQUEST)
            .await
            .unwrap();
        assert!(matches!(found, ReserveOutcome::Completed(stored) if stored.body == b"new"));
    }

    #[tokio::test]
    async fn key_is_not_taken_over_while_its_transaction_commits() {
        let database = TestDatabase::create().await;
        let (state, tenant) = state(&database).await;
        let slow = reserved(&state, tenant).await;
        expire_locks(&state).await;
        let mut tx = TenantTx::begin(state.pool(), tenant).await.unwrap();
        slow.mark_committed(&mut tx).await.unwrap();
        // Immediately, without waiting for the transaction to end.
        let refused = reserve(&state, new_reservation(tenant), Vec::new(), &REQUEST)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::IdempotencyInProgress);
        tx.commit().await.unwrap();
        let mut other = TenantTx::begin(state.pool(), tenant).await.unwrap();
        // One request may commit two transactions.
        slow.mark_committed(&mut other).await.unwrap();
    }
}
