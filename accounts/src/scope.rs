//! Scopes: the rights an API key can have.
//!
//! No scope includes another.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// The text is not the name of a scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a scope; scopes are {list}", list = Scope::list())]
pub struct UnknownScope(pub String);

macro_rules! scopes {
    ($($name:ident = $text:literal,)*) => {
        /// One right of an API key. A key has only the scopes it was given.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Scope {
            $(
                #[doc = concat!("`", $text, "`.")]
                #[serde(rename = $text)]
                $name,
            )*
        }

        impl Scope {
            /// All scopes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name as the API spells it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

scopes! {
    JobsRead = "jobs:read",
    JobsWrite = "jobs:write",
    QueuesManage = "queues:manage",
    SchedulesRead = "schedules:read",
    SchedulesManage = "schedules:manage",
    WebhooksRead = "webhooks:read",
    WebhooksManage = "webhooks:manage",
    MessagesRead = "messages:read",
    MessagesSend = "messages:send",
    ConsentsManage = "consents:manage",
    TemplatesManage = "templates:manage",
    ReportsRead = "reports:read",
    ReportsExport = "reports:export",
    BackupsRead = "backups:read",
    BackupsManage = "backups:manage",
    TrunksRead = "trunks:read",
    TrunksManage = "trunks:manage",
    BillingRead = "billing:read",
    BillingManage = "billing:manage",
    LimitsManage = "limits:manage",
    AuditRead = "audit:read",
    KeysManage = "keys:manage",
    UsersManage = "users:manage",
    TenantAdmin = "tenant:admin",
    PlatformAdmin = "platform:admin",
}

// Written out: the derived schema does not see names that a macro sets.
impl PartialSchema for Scope {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("One right of an API key."))
            .enum_values(Some(Self::ALL.iter().map(|scope| scope.as_str())))
            .into()
    }
}

impl ToSchema for Scope {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Scope")
    }
}

impl Scope {
    fn list() -> String {
        let names: Vec<&str> = Self::ALL.iter().map(|scope| scope.as_str()).collect();
        names.join(", ")
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL
            .iter()
            .copied()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_names_match_the_contract() {
        let contract = "jobs:read jobs:write queues:manage schedules:read schedules:manage \
            webhooks:read webhooks:manage messages:read messages:send consents:manage \
            templates:manage reports:read reports:export backups:read backups:manage trunks:read \
            trunks:manage billing:read billing:manage limits:manage audit:read keys:manage \
            users:manage tenant:admin platform:admin";
        let names: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
        assert_eq!(names, contract.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn scope_is_parsed_from_its_exact_name_only() {
        for scope in Scope::ALL {
            assert_eq!(scope.to_string().parse(), Ok(*scope));
            assert_eq!(
                serde_json::to_value(scope).ok(),
                Some(scope.as_str().into())
            );
        }
        for text in ["", "jobs", "jobs:*", "Jobs:read", " jobs:read"] {
            assert_eq!(text.parse::<Scope>(), Err(UnknownScope(text.to_owned())));
        }
    }
}
