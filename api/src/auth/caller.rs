//! Room: the caller.
//! Takes: what [`super::authenticate()`] found out. Gives: for whom somebody calls, who that is, and whether they
//! may do a thing, or a problem of status 403.
//! Never: looks at a header.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use harkara_shared::audit::{self, Actor, AuditNote, Entry};
use harkara_shared::clock;
use harkara_shared::id::{ApiKeyId, SessionId, TenantId, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::access::{KeyTier, Scope, TenantStatus};
use crate::idempotency::Reservation;
use crate::limits::Policies;
use crate::problem::{Code, Problem};

/// That a person had confirmed that it was they.
const CONFIRMED: &str = "confirmed";

/// Who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// An application, by its key.
    Key {
        /// The key.
        id: ApiKeyId,
        /// Its contract.
        tier: KeyTier,
    },
    /// A person who has signed in.
    Person {
        /// The person.
        user: UserId,
        /// By which session.
        session: SessionId,
        /// Until when what needs confirmation is confirmed.
        confirmed_until: Option<DateTime<Utc>>,
    },
}

/// Who calls, for which tenant, and what they may do there.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// For whom.
    pub(crate) tenant: TenantId,
    /// Whether `tenant` is the built-in one.
    pub(crate) is_platform: bool,
    /// Who.
    pub(crate) who: Who,
    /// Whose the key or the person is.
    pub(super) home: TenantId,
    /// Whether that is the built-in tenant, whomever the caller acts for.
    pub(super) by_platform: bool,
    /// Status of the tenant that the caller belongs to.
    pub(super) status: TenantStatus,
    pub(super) scopes: Arc<[Scope]>,
    /// Whose budget of requests it is: the first of the keys that took each other's place, or the person.
    pub(super) budget: Uuid,
    /// What limits their requests.
    pub(super) policies: Policies,
    pub(super) actor: Arc<Actor>,
    /// The idempotency key of the request, which is marked in the transaction that carries it out.
    pub(super) reservation: Option<Reservation>,
}

impl Caller {
    /// Whether the caller may do what concerns more than one tenant, or another.
    pub(crate) fn administers(&self) -> bool {
        self.by_platform && self.scopes.contains(&Scope::PlatformAdmin)
    }

    /// Whether the caller has the scope.
    pub(crate) fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Whose the caller is, whomever it acts for.
    pub(crate) fn home(&self) -> TenantId {
        self.home
    }

    /// Whose requests are counted: `app.charge_requests` finds a key's tenant by it.
    pub(crate) fn subject(&self) -> String {
        match self.who {
            Who::Key { .. } => format!("key:{}", self.budget),
            Who::Person { .. } => format!("user:{}", self.budget),
        }
    }

    /// What limits the caller's requests.
    pub(crate) fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Who the audit log says it was.
    pub(crate) fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The caller of a request that bears an idempotency key.
    pub(crate) fn with_reservation(self, reservation: Reservation) -> Self {
        Self {
            reservation: Some(reservation),
            ..self
        }
    }

    /// Whether the request is carried out in a transaction of its own, because it bears an idempotency key.
    pub(crate) fn needs_own_transaction(&self) -> bool {
        self.reservation.is_some()
    }

    /// Ties the request's idempotency key, if it bears one, to the transaction that carries it out.
    ///
    /// # Errors
    /// A problem of status 409 when the key has been taken over: nothing must be committed then.
    pub(crate) async fn mark(&self, connection: &mut PgConnection) -> Result<(), Problem> {
        match &self.reservation {
            Some(reservation) => reservation.mark(connection).await,
            None => Ok(()),
        }
    }

    /// What the caller may do now, in words that can be kept.
    pub(crate) fn rights(&self) -> Vec<String> {
        let scopes = self.scopes.iter().map(|scope| scope.to_string());
        let confirmed = self.is_person() && self.require_confirmed().is_ok();
        scopes
            .chain(confirmed.then(|| CONFIRMED.to_owned()))
            .collect()
    }

    /// Goes on if the caller has what [`Caller::rights`] once told.
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

    /// Whether a person calls.
    pub(crate) fn is_person(&self) -> bool {
        matches!(self.who, Who::Person { .. })
    }

    /// Goes on if the key or person belongs to the platform.
    ///
    /// # Errors
    /// A problem of status 403.
    pub(crate) fn require_platform(&self) -> Result<(), Problem> {
        if self.by_platform {
            Ok(())
        } else {
            Err(Problem::new(
                Code::PlatformOnly,
                "only a key or a person of the tenant `platform` may do this",
            ))
        }
    }

    /// Goes on if the caller belongs to the platform and has its scope.
    ///
    /// # Errors
    /// A problem of status 403.
    pub(crate) fn require_admin(&self) -> Result<(), Problem> {
        self.require_platform()?;
        self.require(Scope::PlatformAdmin)
    }

    /// Goes on if the caller has the scope.
    ///
    /// # Errors
    /// A problem of status 403 that names it.
    pub(crate) fn require(&self, scope: Scope) -> Result<(), Problem> {
        if self.has(scope) {
            return Ok(());
        }
        let who = match self.who {
            Who::Key { .. } => "the API key lacks",
            Who::Person { .. } => "your roles do not give",
        };
        Err(Problem::new(
            Code::MissingScope,
            format!("{who} the scope `{scope}`"),
        ))
    }

    /// Goes on if it is a key, or a person who has confirmed a short while ago that it is they: for what
    /// reveals a secret or cannot be undone.
    ///
    /// # Errors
    /// A problem of status 403.
    pub(crate) fn require_confirmed(&self) -> Result<(), Problem> {
        match self.who {
            Who::Person {
                confirmed_until, ..
            } if confirmed_until.is_none_or(|until| until <= clock::now()) => Err(Problem::new(
                Code::ConfirmationRequired,
                "confirm that it is you first: POST /v1/session/confirm",
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

    /// An entry for whoever makes the change, in the chain of the tenant acted for.
    pub(crate) fn note(&self, entry: Entry) -> AuditNote {
        self.note_in(self.tenant, entry)
    }

    /// The same in the chain of another tenant, which the change concerns.
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
        // A route outside of `authenticate` has no caller.
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Problem::internal("a route that wants a caller lets everybody in"))
    }
}
