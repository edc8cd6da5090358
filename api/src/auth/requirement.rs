//! What a route requires of its caller, as part of the handler's signature.
//!
//! A handler that takes `Authorized<scope::JobsWrite>` runs only for callers with that scope. The OpenAPI
//! document reads the same type, so that enforcement and description cannot differ. Rules that depend on
//! the resource (another tenant's, the platform's own) remain in the handler.

use std::marker::PhantomData;
use std::ops::Deref;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use harkara_accounts::Scope;

use super::Caller;
use crate::problem::Problem;

/// A rule that a caller must satisfy before a handler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AccessRule {
    /// One of these scopes suffices; a refusal names the first.
    pub(crate) any_of: &'static [Scope],
    /// Whether a platform administrator needs none of the scopes.
    pub(crate) or_platform_admin: bool,
    /// Whether the key or user must also belong to the tenant `platform`.
    pub(crate) platform_only: bool,
    /// Whether users must have confirmed their session.
    pub(crate) confirmed: bool,
}

impl AccessRule {
    const fn any_of(any_of: &'static [Scope]) -> Self {
        Self {
            any_of,
            or_platform_admin: false,
            platform_only: false,
            confirmed: false,
        }
    }

    fn check(&self, caller: &Caller) -> Result<(), Problem> {
        let is_exempt = self.or_platform_admin && caller.is_platform_admin();
        if !is_exempt && !self.any_of.iter().any(|scope| caller.has(*scope)) {
            self.any_of
                .first()
                .map_or(Ok(()), |scope| caller.require(*scope))?;
        }
        if self.platform_only {
            caller.require_platform()?;
        }
        if self.confirmed {
            caller.require_confirmed()?;
        }
        Ok(())
    }

    /// The rule in a sentence of the API's description.
    pub(crate) fn describe(&self) -> String {
        let names: Vec<String> = self
            .any_of
            .iter()
            .map(|scope| format!("`{scope}`"))
            .collect();
        let mut text = format!("Requires the scope {}", names.join(" or "));
        if self.platform_only {
            text.push_str(" and a key or user of the tenant `platform`");
        }
        if self.or_platform_admin {
            text.push_str("; `platform:admin` of the tenant `platform` suffices as well");
        }
        text.push('.');
        if self.confirmed {
            text.push_str(" Users must have confirmed their session (`POST /v1/session/confirm`).");
        }
        text
    }
}

/// A marker type for an [`AccessRule`].
pub(crate) trait Requirement: Send + Sync + 'static {
    /// The rule.
    const RULE: AccessRule;
}

/// One marker type for each scope that a route requires.
pub(crate) mod scope {
    use super::{AccessRule, Requirement, Scope};

    macro_rules! markers {
        ($($name:ident,)*) => {
            $(
                #[derive(Debug, Clone, Copy)]
                pub(crate) struct $name;

                impl Requirement for $name {
                    const RULE: AccessRule = AccessRule::any_of(&[Scope::$name]);
                }
            )*
        };
    }

    markers! {
        AuditRead,
        JobsRead,
        JobsWrite,
        KeysManage,
        LimitsManage,
        PlatformAdmin,
        QueuesManage,
        TenantAdmin,
        UsersManage,
        WebhooksManage,
        WebhooksRead,
    }

    /// Either of the two scopes that permit reading usage.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct JobsReadOrTenantAdmin;

    impl Requirement for JobsReadOrTenantAdmin {
        const RULE: AccessRule = AccessRule::any_of(&[Scope::JobsRead, Scope::TenantAdmin]);
    }
}

/// `R`, and for users a confirmed session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Confirmed<R>(PhantomData<R>);

impl<R: Requirement> Requirement for Confirmed<R> {
    const RULE: AccessRule = AccessRule {
        confirmed: true,
        ..R::RULE
    };
}

/// `R`, for keys and users of the tenant `platform` only.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlatformOnly<R>(PhantomData<R>);

impl<R: Requirement> Requirement for PlatformOnly<R> {
    const RULE: AccessRule = AccessRule {
        platform_only: true,
        ..R::RULE
    };
}

/// `R`, or a platform administrator.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OrPlatformAdmin<R>(PhantomData<R>);

impl<R: Requirement> Requirement for OrPlatformAdmin<R> {
    const RULE: AccessRule = AccessRule {
        or_platform_admin: true,
        ..R::RULE
    };
}

/// The extractor of a caller who satisfies `R`.
#[derive(Debug, Clone)]
pub(crate) struct Authorized<R> {
    caller: Caller,
    requirement: PhantomData<R>,
}

impl<R> Deref for Authorized<R> {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl<R: Requirement, S: Send + Sync> FromRequestParts<S> for Authorized<R> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        R::RULE.check(&caller)?;
        Ok(Self {
            caller,
            requirement: PhantomData,
        })
    }
}
