//! The authenticated caller of a request: its identity, the tenant it acts for, and what it may do.
//!
//! Built by [`super::authenticate()`]. Checks return a problem of status 403; headers are not read here.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use harkara_accounts::{Policies, Scope, TenantStatus};
use harkara_shared::audit::{self, Actor, AuditNote, Entry};
use harkara_shared::clock;
use harkara_shared::id::{ApiKeyId, SessionId, TenantId, UserId};
use sqlx::PgConnection;

use crate::idempotency::Reservation;
use crate::problem::{Code, Problem};

/// The right of a user who has confirmed the session, as [`Caller::rights`] stores it.
const CONFIRMED: &str = "confirmed";

/// The identity of a caller: the key or user that a request authenticates as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Principal {
    /// An application, identified by its API key.
    Key {
        /// Id of the key.
        id: ApiKeyId,
        /// The first key of its chain of rotations. All keys of a chain share one set of rate limit counters.
        family: ApiKeyId,
    },
    /// A signed-in user.
    User {
        /// Id of the user.
        user: UserId,
        /// The session of the request.
        session: SessionId,
        /// Until when the session counts as confirmed.
        confirmed_until: Option<DateTime<Utc>>,
    },
}

/// The authenticated caller of a request.
///
/// A caller is a principal with its scopes. It belongs to one tenant, the *home tenant*, and acts for one tenant,
/// whose data the handler reads and changes. Both are the same, except for a platform administrator who names
/// another tenant in `X-Tenant-Id`; fields named after the home tenant do not change then. A caller *from the
/// platform* has the built-in tenant `platform` as its home tenant; a *platform administrator* also has the scope
/// `platform:admin`.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The tenant acted for.
    pub(crate) tenant: TenantId,
    /// Whether `tenant` is the built-in tenant `platform`.
    pub(crate) in_platform_tenant: bool,
    /// The key or user.
    pub(crate) principal: Principal,
    /// The tenant that the key or user belongs to.
    pub(super) home_tenant: TenantId,
    /// Whether `home_tenant` is the built-in tenant `platform`.
    pub(super) from_platform: bool,
    /// Status of `home_tenant`. The status of another tenant never limits a platform administrator who acts for
    /// it, so it is not kept.
    pub(super) home_status: TenantStatus,
    /// What the key or user may do.
    pub(super) scopes: Arc<[Scope]>,
    /// Limits of the caller's requests, counted for [`Caller::rate_limit_subject`].
    pub(super) rate_policies: Policies,
    /// The caller as the audit log records it.
    pub(super) actor: Arc<Actor>,
    /// The idempotency key of the request, if it has one. Every transaction of the handler marks it as committed.
    pub(super) idempotency_reservation: Option<Reservation>,
}

impl Caller {
    /// Whether the caller is a platform administrator, who may act for and across tenants.
    pub(crate) fn is_platform_admin(&self) -> bool {
        self.from_platform && self.scopes.contains(&Scope::PlatformAdmin)
    }

    /// Whether the caller has the scope.
    pub(crate) fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// The tenant that the caller belongs to.
    pub(crate) fn home_tenant(&self) -> TenantId {
        self.home_tenant
    }

    /// Name of the rate limit counters that the caller's requests are charged to. `app.charge_requests` derives
    /// a key's tenant from it.
    pub(crate) fn rate_limit_subject(&self) -> String {
        match self.principal {
            Principal::Key { family, .. } => format!("key:{}", family.as_uuid()),
            Principal::User { user, .. } => format!("user:{}", user.as_uuid()),
        }
    }

    /// Limits of the caller's requests.
    pub(crate) fn rate_policies(&self) -> &Policies {
        &self.rate_policies
    }

    /// The caller as the audit log records it.
    pub(crate) fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The caller of a request with an idempotency key.
    pub(crate) fn with_reservation(self, reservation: Reservation) -> Self {
        Self {
            idempotency_reservation: Some(reservation),
            ..self
        }
    }

    /// Whether the request needs its own transaction, because it has an idempotency key.
    pub(crate) fn needs_own_transaction(&self) -> bool {
        self.idempotency_reservation.is_some()
    }

    /// Marks the request's idempotency key, if any, as committed by this transaction.
    ///
    /// # Errors
    /// A problem of status 409 when another request has taken over the key: the transaction must not commit.
    pub(crate) async fn mark_committed(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(), Problem> {
        match &self.idempotency_reservation {
            Some(reservation) => reservation.mark_committed(connection).await,
            None => Ok(()),
        }
    }

    /// The rights of the caller in a form that can be stored.
    pub(crate) fn rights(&self) -> Vec<String> {
        let scopes = self.scopes.iter().map(|scope| scope.to_string());
        let confirmed = self.is_user() && self.require_confirmed().is_ok();
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
    pub(crate) fn is_user(&self) -> bool {
        matches!(self.principal, Principal::User { .. })
    }

    /// Requires a key or user of the tenant `platform`.
    ///
    /// # Errors
    /// A problem of status 403.
    pub(crate) fn require_platform(&self) -> Result<(), Problem> {
        if self.from_platform {
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
        let lacks = match self.principal {
            Principal::Key { .. } => "the API key lacks",
            Principal::User { .. } => "your roles do not include",
        };
        Err(Problem::new(
            Code::MissingScope,
            format!("{lacks} the scope `{scope}`"),
        ))
    }

    /// Requires, of a user, a recently confirmed session: for operations that reveal a secret or cannot be
    /// undone. Keys pass.
    ///
    /// # Errors
    /// A problem of status 403.
    pub(crate) fn require_confirmed(&self) -> Result<(), Problem> {
        match self.principal {
            Principal::User {
                confirmed_until, ..
            } if confirmed_until.is_none_or(|until| until <= clock::now()) => Err(Problem::new(
                Code::ConfirmationRequired,
                "confirm the session first: POST /v1/session/confirm",
            )),
            _ => Ok(()),
        }
    }

    /// Adds an entry to the audit log of the tenant acted for, in the transaction that makes the change.
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
    pub(crate) fn audit_note(&self, entry: Entry) -> AuditNote {
        self.audit_note_in(self.tenant, entry)
    }

    /// An audit note by this caller in the chain of another tenant, which the change affects.
    pub(crate) fn audit_note_in(&self, tenant: TenantId, entry: Entry) -> AuditNote {
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
            Problem::internal("a handler extracts a `Caller` on a route without authentication")
        })
    }
}
