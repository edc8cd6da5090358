//! Tiers of contracts, and the limits that each grants.

use std::str::FromStr;
use std::time::Duration;

use harkara_queue::settings::Rate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Tier of a tenant's contract. It sets the rate of job starts, the maximum number of waiting jobs, and the
/// highest tier of the tenant's API keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
#[sqlx(type_name = "text", rename_all = "UPPERCASE")]
pub enum SlaTier {
    /// 30 job starts a minute, 100 000 waiting jobs.
    Free,
    /// 300 job starts a minute, 1 000 000 waiting jobs.
    Pro,
    /// 3 000 job starts a minute, 10 000 000 waiting jobs.
    Enterprise,
}

impl SlaTier {
    /// All tiers, from the smallest.
    pub const ALL: [Self; 3] = [Self::Free, Self::Pro, Self::Enterprise];

    /// The name as the API and the database spell it, in capitals.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "FREE",
            Self::Pro => "PRO",
            Self::Enterprise => "ENTERPRISE",
        }
    }

    /// Rate of job starts that the contract grants. Defined here only.
    #[must_use]
    pub const fn rate(self) -> Rate {
        let count = match self {
            Self::Free => 30,
            Self::Pro => 300,
            Self::Enterprise => 3000,
        };
        Rate {
            count,
            per: Duration::from_secs(60),
            burst: Rate::default_burst(count),
        }
    }
}

impl SlaTier {
    /// Maximum number of waiting jobs of a new tenant, unless the platform sets another.
    #[must_use]
    pub const fn max_waiting(self) -> u32 {
        match self {
            Self::Free => 100_000,
            Self::Pro => 1_000_000,
            Self::Enterprise => 10_000_000,
        }
    }
}

impl FromStr for SlaTier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|tier| tier.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a tier: expected FREE, PRO or ENTERPRISE"))
    }
}
