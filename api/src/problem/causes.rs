//! Converts the errors of other modules and crates into problems.
//!
//! Internal causes go to the log only.

use std::sync::Arc;

use harkara_accounts as accounts;
use harkara_accounts::users;
use harkara_accounts::users::sign_in::SignInError;
use harkara_kind::FieldError;
use harkara_queue::settings::{InvalidLimit, SettingsError};
use harkara_shared::process::in_one_line;
use harkara_webhooks as webhooks;

use super::{Code, Problem};
use crate::field_errors::FieldErrors;
use crate::json;
use crate::sign_in::oidc::OidcError;

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        Self::of_database(&error)
    }
}

impl From<Arc<sqlx::Error>> for Problem {
    fn from(error: Arc<sqlx::Error>) -> Self {
        Self::of_database(&error)
    }
}

impl From<harkara_queue::Error> for Problem {
    fn from(error: harkara_queue::Error) -> Self {
        match error {
            harkara_queue::Error::Database(error) => Self::of_database(&error),
            harkara_queue::Error::Contended(_) => {
                Self::new(Code::DatabaseBusy, "a unique key is contended; retry")
            }
            harkara_queue::Error::DepthQuota { limit, waiting } => {
                Self::too_deep(error.to_string(), limit, waiting)
            }
            other => Self::internal(in_one_line(&other)),
        }
    }
}

impl From<SettingsError> for Problem {
    /// Limits with keys are pointed at as members of `limits`.
    fn from(error: SettingsError) -> Self {
        let (pointer, code, detail) = match error {
            SettingsError::QueueNotFound => return Self::not_found("queue"),
            SettingsError::Engine(error) => return error.into(),
            SettingsError::TooManyLimits => ("/limits".to_owned(), "too_many", error.to_string()),
            SettingsError::InvalidLimit { key, problem } => {
                let limit = key.map(|key| format!("/limits{}", json::pointer_token(&key)));
                let pointer = format!("{}/{}", limit.unwrap_or_default(), problem.field());
                let code = match problem {
                    InvalidLimit::PerMissing => "missing",
                    InvalidLimit::PerWithoutRate | InvalidLimit::BurstWithoutRate => "needs_rate",
                };
                (pointer, code, problem.reason().to_owned())
            }
        };
        let problem = Self::new(Code::Invalid, format!("{pointer}: {detail}"));
        problem.with_field_errors(vec![FieldError::new(pointer, code, detail)])
    }
}

impl From<accounts::Error> for Problem {
    fn from(error: accounts::Error) -> Self {
        match error {
            accounts::Error::Database(error) => Self::of_database(&error),
            accounts::Error::Settings(error) => error.into(),
            accounts::Error::Quota { .. } => Self::new(Code::Quota, error.to_string()),
            accounts::Error::SlugTaken(_) | accounts::Error::BeingErased => {
                Self::new(Code::Conflict, error.to_string())
            }
            other => Self::internal(other),
        }
    }
}

impl From<webhooks::Error> for Problem {
    fn from(error: webhooks::Error) -> Self {
        match error {
            webhooks::Error::Database(error) => Self::of_database(&error),
            webhooks::Error::Queue(error) => error.into(),
            webhooks::Error::Invalid(wrong) => {
                let mut errors = FieldErrors::default();
                errors.extend("", wrong);
                errors.problem(Code::Invalid)
            }
            webhooks::Error::Conflict(reason) => Self::new(Code::Conflict, reason),
            other => Self::internal(in_one_line(&other)),
        }
    }
}

impl From<users::Error> for Problem {
    fn from(error: users::Error) -> Self {
        use users::Error as E;
        let at = |pointer: &str, code: &'static str| {
            let field_error = FieldError::new(pointer, code, error.to_string());
            Self::new(Code::Invalid, format!("{pointer}: {error}"))
                .with_field_errors(vec![field_error])
        };
        match error {
            E::Database(error) => Self::of_database(&error),
            E::Email => at("/email", "invalid"),
            E::Name => at("/name", "invalid"),
            E::Password => at("/password", "invalid"),
            E::NoSuchRole(_) => at("/role", "unknown"),
            E::NoSuchPermission(_) => at("/permission", "unknown"),
            E::Times => at("/expires_at", "invalid"),
            E::Reason => at("/reason", "invalid"),
            E::EmailTaken(_) => Self::new(Code::Conflict, error.to_string()),
            E::NoSuchUser => Self::not_found("user"),
            E::LastAdmin => Self::new(Code::LastAdmin, error.to_string()),
            E::Busy => Self::new(Code::Busy, format!("{error}; retry")),
            E::Vault(_) | E::Internal(_) => Self::internal(error),
        }
    }
}

impl From<SignInError> for Problem {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::Refused => Self::new(Code::SignInFailed, error.to_string()),
            SignInError::CodeRequired => Self::new(Code::SecondFactor, error.to_string()),
            SignInError::ChooseTenant(slugs) => {
                Self::choose_tenant(slugs.iter().map(String::as_str))
            }
            SignInError::User(error) => error.into(),
            SignInError::Tenant(error) => error.into(),
        }
    }
}

impl From<OidcError> for Problem {
    fn from(error: OidcError) -> Self {
        match error {
            OidcError::Setup(_) => Self::internal(error),
            OidcError::Call(_) | OidcError::Response(_) => Self::new(
                Code::ProviderUnavailable,
                "the identity provider did not respond as expected; retry",
            )
            .caused_by(error),
        }
    }
}
