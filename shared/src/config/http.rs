//! Room: the part of the configuration that concerns the API's callers.
//! Takes: the reader of settings. Gives: [`HttpSettings`], or mistakes. Never: fetches anything.

use std::fmt;

use ipnet::IpNet;
use url::Url;

use super::{Reader, networks};

/// How the API is reached, and by whom.
#[derive(Debug, Clone, Default)]
pub struct HttpSettings {
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Origins whose pages may call the API; none by default.
    pub cors_origins: Vec<String>,
    /// Where people reach the API and the dashboard; the address it listens on when not set.
    pub public_url: Option<Url>,
    /// Who people may sign in with.
    pub oidc: Option<OidcSettings>,
}

/// A provider of identities (OpenID Connect).
#[derive(Clone)]
pub struct OidcSettings {
    /// The provider's address, as its discovery document names it.
    pub issuer: Url,
    /// What the provider calls this platform.
    pub client_id: String,
    /// The secret it gave along.
    pub client_secret: String,
    /// What people call the provider.
    pub name: String,
}

impl fmt::Debug for OidcSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OidcSettings")
            .field("issuer", &self.issuer.as_str())
            .field("client_id", &self.client_id)
            .field("client_secret", &"redacted")
            .field("name", &self.name)
            .finish()
    }
}

/// The keys that are read here.
pub(super) const KNOWN: &[&str] = &[
    "HARKARA_CORS_ORIGINS",
    "HARKARA_OIDC_CLIENT_ID",
    "HARKARA_OIDC_CLIENT_SECRET",
    "HARKARA_OIDC_ISSUER",
    "HARKARA_OIDC_NAME",
    "HARKARA_PUBLIC_URL",
    "HARKARA_TRUSTED_PROXIES",
];

/// `None` when something is wrong, which the reader then knows.
pub(super) fn read(reader: &mut Reader) -> Option<HttpSettings> {
    let trusted_proxies = reader.value("HARKARA_TRUSTED_PROXIES", "", networks);
    let cors_origins = reader.value("HARKARA_CORS_ORIGINS", "", origins);
    let public_url = reader.optional("HARKARA_PUBLIC_URL", base);
    let oidc = oidc(reader);
    Some(HttpSettings {
        trusted_proxies: trusted_proxies?,
        cors_origins: cors_origins?,
        public_url,
        oidc,
    })
}

fn oidc(reader: &mut Reader) -> Option<OidcSettings> {
    let issuer = reader.optional("HARKARA_OIDC_ISSUER", web);
    let client_id = reader.optional("HARKARA_OIDC_CLIENT_ID", taken);
    let client_secret = reader.optional("HARKARA_OIDC_CLIENT_SECRET", taken);
    let name = reader.value("HARKARA_OIDC_NAME", "single sign-on", taken);
    if issuer.is_none() && client_id.is_none() && client_secret.is_none() {
        return None;
    }
    for (variable, is_missing) in [
        ("HARKARA_OIDC_ISSUER", issuer.is_none()),
        ("HARKARA_OIDC_CLIENT_ID", client_id.is_none()),
        ("HARKARA_OIDC_CLIENT_SECRET", client_secret.is_none()),
    ] {
        if is_missing && !reader.is_mistaken(variable) {
            reader.mistake(variable, "is required with the other two of HARKARA_OIDC_*");
        }
    }
    Some(OidcSettings {
        issuer: issuer?,
        client_id: client_id?,
        client_secret: client_secret?,
        name: name?,
    })
}

fn taken(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn web(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|_| "is not a URL".to_owned())?;
    if matches!(url.scheme(), "http" | "https") && url.host().is_some() {
        Ok(url)
    } else {
        Err("must start with https:// (or http://) and name a host".to_owned())
    }
}

fn base(text: &str) -> Result<Url, String> {
    let url = web(text)?;
    if url.path() == "/" && url.query().is_none() && url.fragment().is_none() {
        Ok(url)
    } else {
        Err("must be a host without a path, such as https://jobs.example.com".to_owned())
    }
}

fn origins(text: &str) -> Result<Vec<String>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            base(part)
                .map(|url| url.origin().ascii_serialization())
                .map_err(|_| format!("`{part}` is not an origin such as https://app.example.com"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Settings;
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<HttpSettings, Vec<(String, String)>> {
        let environment: BTreeMap<String, String> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Settings::read(environment, &[])
            .map(|settings| settings.http)
            .map_err(|errors| {
                let told = |mistake: &super::super::ConfigError| {
                    (mistake.variable.clone(), mistake.reason.clone())
                };
                errors.0.iter().map(told).collect()
            })
    }

    #[test]
    fn without_a_word_nobody_is_trusted_and_no_page_may_call() {
        let http = read(&[]).unwrap();
        assert!(http.trusted_proxies.is_empty() && http.cors_origins.is_empty());
        assert!(http.public_url.is_none() && http.oidc.is_none());
    }

    #[test]
    fn origins_are_read_without_what_does_not_belong_to_them() {
        let http = read(&[(
            "HARKARA_CORS_ORIGINS",
            "https://a.example, https://b.example:8443/",
        )])
        .unwrap();
        assert_eq!(
            http.cors_origins,
            ["https://a.example", "https://b.example:8443"]
        );
        for wrong in ["*", "a.example", "https://a.example/path", "file:///x"] {
            let mistakes = read(&[("HARKARA_CORS_ORIGINS", wrong)]).unwrap_err();
            assert_eq!(mistakes.len(), 1, "{wrong}");
        }
    }

    #[test]
    fn a_provider_is_told_whole_or_not_at_all() {
        let whole = [
            ("HARKARA_OIDC_ISSUER", "https://id.example"),
            ("HARKARA_OIDC_CLIENT_ID", "harkara"),
            ("HARKARA_OIDC_CLIENT_SECRET", "a secret"),
        ];
        let oidc = read(&whole).unwrap().oidc.unwrap();
        assert_eq!(oidc.name, "single sign-on");
        assert!(!format!("{oidc:?}").contains("a secret"));
        let mistakes = read(&whole[..1]).unwrap_err();
        let variables: Vec<&str> = mistakes.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            variables,
            ["HARKARA_OIDC_CLIENT_ID", "HARKARA_OIDC_CLIENT_SECRET"]
        );
    }
}
