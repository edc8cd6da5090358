//! Room: the errors of other rooms as problems.
//! Takes: an error. Gives: the problem that a caller is answered.
//! Never: shows a caller what is for our log only.

use harkara_jobs::fault::Fault;
use harkara_jobs::webhook;
use harkara_queue::settings::{Senseless, SettingsError};
use harkara_shared::process::in_one_line;

use super::{Code, Problem};
use crate::access;
use crate::json;

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        Self::of_database(&error)
    }
}

impl From<harkara_queue::Error> for Problem {
    fn from(error: harkara_queue::Error) -> Self {
        match error {
            harkara_queue::Error::Database(error) => Self::of_database(&error),
            harkara_queue::Error::Contended(_) => {
                Self::new(Code::DatabaseBusy, "a unique key is contended: try again")
            }
            harkara_queue::Error::DepthQuota { most, waiting } => {
                Self::too_deep(error.to_string(), most, waiting)
            }
            other => Self::internal(in_one_line(&other)),
        }
    }
}

impl From<SettingsError> for Problem {
    /// Limits that have keys are taken as members of `limits`.
    fn from(error: SettingsError) -> Self {
        let (pointer, code, detail) = match error {
            SettingsError::NoSuchQueue => return Self::not_found("queue"),
            SettingsError::Engine(error) => return error.into(),
            SettingsError::TooMany => ("/limits".to_owned(), "too_many", error.to_string()),
            SettingsError::Senseless { key, member } => {
                let limit = key.map(|key| format!("/limits{}", json::token(&key)));
                let pointer = format!("{}/{}", limit.unwrap_or_default(), member.word());
                let code = match member {
                    Senseless::PerMissing => "missing",
                    Senseless::PerWithoutRate | Senseless::BurstWithoutRate => "needs_rate",
                };
                (pointer, code, member.reason().to_owned())
            }
        };
        let problem = Self::new(Code::Invalid, format!("{pointer}: {detail}"));
        problem.with_faults(vec![Fault::new(pointer, code, detail)])
    }
}

impl From<access::Error> for Problem {
    fn from(error: access::Error) -> Self {
        match error {
            access::Error::Database(error) => Self::of_database(&error),
            access::Error::Settings(error) => error.into(),
            access::Error::Quota { .. } => Self::new(Code::Quota, error.to_string()),
            access::Error::SlugTaken(_) => Self::new(Code::Conflict, error.to_string()),
            other => Self::internal(other),
        }
    }
}

impl From<webhook::Error> for Problem {
    fn from(error: webhook::Error) -> Self {
        match error {
            webhook::Error::Database(error) => Self::of_database(&error),
            webhook::Error::Queue(error) => error.into(),
            webhook::Error::Conflict(reason) => Self::new(Code::Conflict, reason),
            other => Self::internal(in_one_line(&other)),
        }
    }
}
