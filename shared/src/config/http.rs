//! Settings of the API's clients: trusted proxies, CORS origins, the public URL and sign-in.
//!
//! Nothing is fetched here: the identity provider is contacted when a user signs in.

use std::fmt;

use ipnet::IpNet;
use url::Url;

use super::{Reader, networks};

/// Settings of the API's clients.
#[derive(Debug, Clone, Default)]
pub struct HttpSettings {
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Origins whose pages can call the API (CORS); none by default.
    pub cors_origins: Vec<String>,
    /// Base URL of the API and the dashboard for users; the listen address when not set.
    pub public_url: Option<Url>,
    /// The identity provider for single sign-on, if configured.
    pub oidc: Option<OidcSettings>,
}

/// An identity provider (OpenID Connect).
#[derive(Clone)]
pub struct OidcSettings {
    /// Issuer URL, exactly as in the provider's discovery document.
    pub issuer: Url,
    /// Client id that the provider assigned to this platform.
    pub client_id: String,
    /// Client secret that the provider issued with the id.
    pub client_secret: String,
    /// Display name of the provider on the sign-in page.
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

/// The names of the settings read here.
pub(super) const KNOWN: &[&str] = &[
    "HARKARA_CORS_ORIGINS",
    "HARKARA_OIDC_CLIENT_ID",
    "HARKARA_OIDC_CLIENT_SECRET",
    "HARKARA_OIDC_ISSUER",
    "HARKARA_OIDC_NAME",
    "HARKARA_PUBLIC_URL",
    "HARKARA_TRUSTED_PROXIES",
];

/// `None` when a setting is invalid; the reader then holds the error.
pub(super) fn read(reader: &mut Reader) -> Option<HttpSettings> {
    let trusted_proxies = reader.value("HARKARA_TRUSTED_PROXIES", "", networks);
    let cors_origins = reader.value("HARKARA_CORS_ORIGINS", "", origins);
    let public_url = reader.optional("HARKARA_PUBLIC_URL", base_url);
    let oidc = oidc(reader);
    Some(HttpSettings {
        trusted_proxies: trusted_proxies?,
        cors_origins: cors_origins?,
        public_url,
        oidc,
    })
}

fn oidc(reader: &mut Reader) -> Option<OidcSettings> {
    let issuer = reader.optional("HARKARA_OIDC_ISSUER", web_url);
    let client_id = reader.optional("HARKARA_OIDC_CLIENT_ID", any_text);
    let client_secret = reader.optional("HARKARA_OIDC_CLIENT_SECRET", any_text);
    let name = reader.value("HARKARA_OIDC_NAME", "single sign-on", any_text);
    if issuer.is_none() && client_id.is_none() && client_secret.is_none() {
        return None;
    }
    for (variable, is_missing) in [
        ("HARKARA_OIDC_ISSUER", issuer.is_none()),
        ("HARKARA_OIDC_CLIENT_ID", client_id.is_none()),
        ("HARKARA_OIDC_CLIENT_SECRET", client_secret.is_none()),
    ] {
        if is_missing && !reader.has_error(variable) {
            reader.report(
                variable,
                "is required when another HARKARA_OIDC_* setting is set",
            );
        }
    }
    Some(OidcSettings {
        issuer: issuer?,
        client_id: client_id?,
        client_secret: client_secret?,
        name: name?,
    })
}

fn any_text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn web_url(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|_| "must be a URL".to_owned())?;
    if matches!(url.scheme(), "http" | "https") && url.host().is_some() {
        Ok(url)
    } else {
        Err("must start with https:// (or http://) and name a host".to_owned())
    }
}

fn base_url(text: &str) -> Result<Url, String> {
    let url = web_url(text)?;
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
            base_url(part)
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
                let pair = |error: &super::super::ConfigError| {
                    (error.variable.clone(), error.reason.clone())
                };
                errors.0.iter().map(pair).collect()
            })
    }

    #[test]
    fn default_trusts_no_proxy_and_no_origin() {
        let http = read(&[]).unwrap();
        assert!(http.trusted_proxies.is_empty() && http.cors_origins.is_empty());
        assert!(http.public_url.is_none() && http.oidc.is_none());
    }

    #[test]
    fn origins_are_normalized() {
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
            let errors = read(&[("HARKARA_CORS_ORIGINS", wrong)]).unwrap_err();
            assert_eq!(errors.len(), 1, "{wrong}");
        }
    }

    #[test]
    fn identity_provider_requires_all_its_settings() {
        let whole = [
            ("HARKARA_OIDC_ISSUER", "https://id.example"),
            ("HARKARA_OIDC_CLIENT_ID", "harkara"),
            ("HARKARA_OIDC_CLIENT_SECRET", "a secret"),
        ];
        let oidc = read(&whole).unwrap().oidc.unwrap();
        assert_eq!(oidc.name, "single sign-on");
        assert!(!format!("{oidc:?}").contains("a secret"));
        let errors = read(&whole[..1]).unwrap_err();
        let variables: Vec<&str> = errors.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            variables,
            ["HARKARA_OIDC_CLIENT_ID", "HARKARA_OIDC_CLIENT_SECRET"]
        );
    }
}
