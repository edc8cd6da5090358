//! Tiers of API keys: how many requests, keys and endpoints each grants.
//!
//! Holds numbers only; nothing is counted here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::sla_tier::SlaTier;

/// Tier of an API key, which sets its request limits, unless the key has limits of its own.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type, ToSchema,
)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum KeyTier {
    /// 100 requests an hour, 1 000 a day.
    Free,
    /// 1 000 requests an hour, 10 000 a day.
    Developer,
    /// 10 000 requests an hour, 100 000 a day.
    Business,
    /// 100 000 requests an hour, 1 000 000 a day.
    Enterprise,
}

impl KeyTier {
    /// All tiers, from the smallest.
    pub const ALL: [Self; 4] = [
        Self::Free,
        Self::Developer,
        Self::Business,
        Self::Enterprise,
    ];

    /// The name as the API and the database spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Developer => "developer",
            Self::Business => "business",
            Self::Enterprise => "enterprise",
        }
    }

    /// The highest tier that keys of a tenant with this contract can have.
    #[must_use]
    pub const fn of_contract(contract: SlaTier) -> Self {
        match contract {
            SlaTier::Free => Self::Free,
            SlaTier::Pro => Self::Business,
            SlaTier::Enterprise => Self::Enterprise,
        }
    }

    /// Maximum number of working keys of a tenant; `None` for no limit.
    #[must_use]
    pub const fn most_keys(self) -> Option<u32> {
        match self {
            Self::Free => Some(2),
            Self::Developer => Some(10),
            Self::Business => Some(50),
            Self::Enterprise => None,
        }
    }

    /// Maximum number of webhook endpoints of a tenant; `None` for no limit.
    #[must_use]
    pub const fn most_endpoints(self) -> Option<u32> {
        match self {
            Self::Free => Some(5),
            Self::Developer => Some(50),
            Self::Business => Some(200),
            Self::Enterprise => None,
        }
    }
}

impl fmt::Display for KeyTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeyTier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|tier| tier.as_str() == text)
            .ok_or_else(|| {
                format!("`{text}` is not a tier: expected free, developer, business or enterprise")
            })
    }
}
