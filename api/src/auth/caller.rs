//! The authenticated caller of a request: who it is, the tenant it acts for, and what it may do.
//!
//! Made by [`super::authenticate()`]. Checks answer with a problem of status 403; headers are not read here.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use harkara_accounts::Policies;
use harkara_accounts::{KeyTier, Scope, TenantStatus};
use harkara_shared::audit::{self, Actor, AuditNote, Entry};
use harkara_shared::clock;
use harkara_shared::id::{ApiKeyId, SessionId, TenantId, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::idempotency::Reservation;
use crate::problem::{Code, Problem};

/// The right of a user who has confirmed the session, as [`Caller::rights`] stores it.
const CONFIRMED: &str = "confirmed";

/// The identity of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// An application, identified by its API key.
    Key {
        /// Id of the key.
        id: ApiKeyId,
        /// Tier of the key, which sets its request limits.
        tier: KeyTier,
    },
    /// A signed-in user.
    Person {
        /// Id of the user.
        user: UserId,
        /// The session of the request.
        session: SessionId,
        /// Until when the session counts as confirmed.
        confirmed_until: Option<DateTime<Utc>>,
    },
}

/// The authenticated caller of a request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The tenant acted for.
    pub(crate) tenant: TenantId,
    /// Whether `tenant` is the built-in tenant `platform`.
    pub(crate) is_platform: bool,
    /// The key or user.
    pub(crate) who: Who,
    /// The tenant that the key or user belongs to.
    pub(super) home: TenantId,
    /// Whether `home` is the built-in tenant `platform`.
    pub(super) by_platform: bool,
    /// Status of `home`.
    pub(super) status: TenantStatus,
    pub(super) scopes: Arc<[Scope]>,
    /// Owner of the request budget: the user, or the first key of a chain of rotations.
    pub(super) budget: Uuid,
    /// Limits of the caller's requests.
    pub(super) policies: Policies,
    pub(super) actor: Arc<Actor>,
    /// The idempotency key of the request, marked as used by the transaction that carries it out.
    pub(super) reservation: Option<Reservation>,
}

impl Caller {
    /// Whether the caller is a platform administrator, who may act for and across tenants.
    pub(crate) fn administers(&self) -> bool {
        self.by_platform && self.scopes.contains(&Scope::PlatformAdmin)
    }

    /// Whether the caller has the scope.
    pub(crate) fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// The tenant that the caller belongs to.
    pub(crate) fn home(&self) -> TenantId {
        self.home
    }

    /// Subject of the request limits, from which `app.charge_requests` derives a key's tenant.
    pub(crate) fn subject(&self) -> String {
        match self.who {
            Who::Key { .. } => format!("key:{}", self.budget),
            Who::Person { .. } => format!("user:{}", self.budget),
        }
    }

    /// Limits of the caller's requests.
    pub(crate) fn policies(&self) -> &Policies {
        &self.policies
    }

    /// The caller as the audit log records it.
    pub(crate) fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The caller of a request with an idempotency key.
    pub(crate) fn with_reservation(self, reservation: Reservation) -> Self {
        Self {
            reservation: Some(reservation),
            ..self
        }
    }

    /// Whether the request needs its own transaction, because it has an idempotency key.
    pub(crate) fn needs_own_transaction(&self) -> bool {
        self.reservation.is_some()
    }

    /// Marks the request's idempotency key, if any, as used by this transaction.
    ///
    /// # Errors
    /// A problem of status 409 when another request has taken over the key: the transaction must not commit.
    pub(crate) async fn mark(&self, connection: &mut PgConnection) -> Result<(), Problem> {
        match &self.reservation {
            Some(reservation) => reservation.mark(connection).await,
            None => Ok(()),
        }
    }

    /// The rights of the caller in a form that can be stored.
    pub(crate) fn rights(&self) -> Vec<String> {
        let scopes = self.scopes.iter().map(|scope| scope.to_string());
        let confirmed = self.is_person() && self.require_confirmed().is_ok();
        scopes
            .chain(confirmed.then(|| CONFIRMED.to_owned()))
            .collect()
    }

    /// Requires the rights that [`Caller::rights`] returned earlier.
    ///
    /// # Errors
    /// A problem of status 403.
    pub(crate) fn require_rights(&self, rights: &[String]) -> Result<(), Problem> {
        for right in rights {
            match right.parse() {
                Ok(scope) => self.require(scope)?,
                Err(_) => self.require_confirmed()?,
            }
        }
        Ok(())
    }

    /// Whether the caller is a signed-in user.
    pub(crate) fn is_person(&self) -> bool {
        matches!(self.who, Who::Person { .. })
    }

    /// Requires a key or user of the tenant `platform`.
    ///
    /// # Errors
    /// A problem of status 403.
    pub(crate) fn require_platform(&self) -> Result<(), Problem> {
        if self.by_platform {
            Ok(())
        } else {
            Err(Problem::new(
                Code::PlatformOnly,
                "only a key or user of the tenant `platform` may do this",
            ))
        }
    }

    /// Requires a platform administrator.
    ///
    /// # Errors
    /// A problem of status 403.
    pub(crate) fn require_admin(&self) -> Result<(), Problem> {
        self.require_platform()?;
        self.require(Scope::PlatformAdmin)
    }

    /// Requires the scope.
    ///
    /// # Errors
    /// A problem of status 403 that names it.
    pub(crate) fn require(&self, scope: Scope) -> Result<(), Problem> {
        if self.has(scope) {
            return Ok(());
        }
        let who = match self.who {
            Who::Key { .. } => "the API key lacks",
            Who::Person { .. } => "your roles do not include",
        };
        Err(Problem::new(
            Code::MissingScope,
            format!("{who} the scope `{scope}`"),
        ))
    }

    /// Requires, of a user, a recently confirmed session: for operations that reveal a secret or cannot be
    /// undone. Keys pass.
    ///
    /// # Errors
    /// A problem of status 403.
    pub(crate) fn require_confirmed(&self) -> Result<(), Problem> {
        match self.who {
            Who::Person {
                confirmed_until, ..
            } if confirmed_until.is_none_or(|until| until <= clock::now()) => Err(Problem::new(
                Code::ConfirmationRequired,
                "confirm the session first: POST /v1/session/confirm",
            )),
            _ => Ok(()),
        }
    }

    /// Adds to the tenant's audit log, in the transaction that makes the change.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn record(
        &self,
        connection: &mut PgConnection,
        entry: &Entry,
    ) -> Result<(), sqlx::Error> {
        audit::record(connection, self.tenant, &self.actor, entry).await
    }

    /// An audit note by this caller in the chain of the tenant acted for.
    pub(crate) fn note(&self, entry: Entry) -> AuditNote {
        self.note_in(self.tenant, entry)
    }

    /// An audit note by this caller in the chain of another tenant, which the change affects.
    pub(crate) fn note_in(&self, tenant: TenantId, entry: Entry) -> AuditNote {
        AuditNote {
            tenant,
            actor: self.actor().clone(),
            entry,
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // Routes outside of the `authenticate` middleware have no caller.
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Problem::internal("a handler takes a caller on a route without authentication")
        })
    }
}
