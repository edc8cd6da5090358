//! Configuration, read once at start-up.
//!
//! Sources are environment variables and the TOML file named by `HARKARA_CONFIG`; the environment wins.
//! Reading returns one [`Settings`] or every error at once.

mod http;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use crate::blob::BlobStore;
use crate::database::{DatabaseSettings, DatabaseUrl};
use crate::vault::MasterKeys;

pub use http::{HttpSettings, OidcSettings};

/// One error in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The variable or key, such as `HARKARA_LEASE_SECS`.
    pub variable: String,
    /// What is wrong, as a predicate: "must be `on` or `off`". Never contains a value that can be secret.
    pub reason: String,
}

/// All errors of one configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid configuration, {} error(s):", self.0.len())?;
        for error in &self.0 {
            write!(f, "\n  {}: {}", error.variable, error.reason)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Human-readable lines.
    Text,
    /// One JSON object per line.
    Json,
}

/// How many jobs of one queue a worker process runs concurrently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConcurrency {
    /// The queue's name, as in a job's `queue`.
    pub queue: String,
    /// The most jobs running at once, at least 1.
    pub concurrency: u32,
}

/// All settings of a Harkara process. `deploy/env.example` documents each with its default.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `DATABASE_URL` and the connection settings; `None` when the URL is not set.
    pub database: Option<DatabaseSettings>,
    /// Whether workers are woken by NOTIFY; otherwise they only poll.
    pub notify: bool,
    /// Direct database address for LISTEN, required when `DATABASE_URL` goes through PgBouncer in
    /// transaction mode.
    pub listen_url: Option<DatabaseUrl>,
    /// Listen address of the API.
    pub api_addr: SocketAddr,
    /// Listen address of the worker's health and metrics routes.
    pub worker_addr: SocketAddr,
    /// Listen address of the scheduler's health and metrics routes.
    pub scheduler_addr: SocketAddr,
    /// Keys that seal stored secrets; `None` when `HARKARA_MASTER_KEY` is not set.
    pub master_keys: Option<MasterKeys>,
    /// Queues that the worker serves.
    pub worker_queues: Vec<QueueConcurrency>,
    /// How long jobs in flight can take to finish after SIGTERM.
    pub drain: Duration,
    /// How long a claimed job stays with a worker that no longer renews its lease.
    pub lease: Duration,
    /// Memory budget of the jobs a worker holds, in bytes.
    pub worker_memory: u64,
    /// Private networks that outbound requests can reach.
    pub egress_allow: Vec<IpNet>,
    /// Whether `HARKARA_EGRESS_ALLOW` was set, even to an empty value.
    pub egress_allow_was_set: bool,
    /// Settings of the API's clients: proxies, origins, public URL, sign-in.
    pub http: HttpSettings,
    /// Store of files outside the database; `None` when `HARKARA_BLOB_URL` is not set.
    pub blob_store: Option<BlobStore>,
    /// Directory with the programs of PostgreSQL, for a private database.
    pub pg_bin: Option<String>,
    /// Production mode: a private database is refused.
    pub production: bool,
    /// Whether `HARKARA_LOG` was set.
    pub log_was_set: bool,
    /// Filter of the log, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// Format of the log.
    pub log_format: LogFormat,
}

/// The variable that names the configuration file.
const CONFIG_FILE: &str = "HARKARA_CONFIG";

/// The keys that a configuration file can hold. Any other key, such as a misspelt one, is an error.
const KNOWN: &[&str] = &[
    "DATABASE_URL",
    "HARKARA_API_ADDR",
    "HARKARA_BLOB_URL",
    "HARKARA_DATABASE_CONNECTIONS",
    "HARKARA_EGRESS_ALLOW",
    "HARKARA_LEASE_SECS",
    "HARKARA_LISTEN_URL",
    "HARKARA_LOG",
    "HARKARA_LOG_FORMAT",
    "HARKARA_MASTER_KEY",
    "HARKARA_NOTIFY",
    "HARKARA_PG_BIN",
    "HARKARA_PRODUCTION",
    "HARKARA_SCHEDULER_ADDR",
    "HARKARA_STATEMENT_CACHE",
    "HARKARA_WORKER_ADDR",
    "HARKARA_WORKER_DRAIN_SECS",
    "HARKARA_WORKER_MEMORY_MIB",
    "HARKARA_WORKER_QUEUES",
];

/// Whether `name` is the name of a setting.
#[must_use]
pub fn is_known(name: &str) -> bool {
    KNOWN.contains(&name) || http::KNOWN.contains(&name)
}

/// The names of all settings.
pub fn known() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().chain(http::KNOWN).copied()
}

/// Log filter used when `HARKARA_LOG` is not set.
const DEFAULT_LOG: &str = "info";

/// Queues served when `HARKARA_WORKER_QUEUES` is not set.
const DEFAULT_QUEUES: &str =
    "message=64,webhook=256,http=256,billing=16,maintenance=2,report=4,probe=64";

impl Settings {
    /// The store of files outside the database, if one is configured.
    #[must_use]
    pub fn blobs(&self) -> Option<BlobStore> {
        self.blob_store.clone()
    }

    /// Reads the process environment and the file it names. The settings in `needed` are required.
    ///
    /// # Errors
    /// Every invalid and every missing setting.
    pub fn from_environment(needed: &[Needed]) -> Result<Self, ConfigErrors> {
        let mut environment = BTreeMap::new();
        let mut errors = Vec::new();
        for (name, value) in std::env::vars_os() {
            // No setting has a name that is not UTF-8.
            let Ok(name) = name.into_string() else {
                continue;
            };
            match value.into_string() {
                Ok(value) => {
                    environment.insert(name, value);
                }
                Err(_) if is_known(&name) || name == CONFIG_FILE => errors.push(ConfigError {
                    variable: name,
                    reason: "must be valid UTF-8".to_owned(),
                }),
                Err(_) => {}
            }
        }
        match Self::read(environment, needed) {
            settings if errors.is_empty() => settings,
            Ok(_) => Err(ConfigErrors(errors)),
            Err(ConfigErrors(others)) => {
                errors.extend(others);
                Err(ConfigErrors(errors))
            }
        }
    }

    /// Reads the given variables, and the file that `HARKARA_CONFIG` among them names.
    ///
    /// # Errors
    /// Every invalid and every missing setting.
    pub fn read(
        environment: BTreeMap<String, String>,
        needed: &[Needed],
    ) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(environment);
        for need in needed {
            reader.require(*need);
        }
        let statement_cache = reader.value("HARKARA_STATEMENT_CACHE", "on", switch);
        let connections = reader.value("HARKARA_DATABASE_CONNECTIONS", "20", |text| {
            number(text, 4_u32..=1000)
        });
        let url = reader.optional("DATABASE_URL", database_url);
        let listen_url = reader
            .optional("HARKARA_LISTEN_URL", database_url)
            .map(DatabaseUrl::from);
        let notify = reader.value("HARKARA_NOTIFY", "on", switch);
        let api_addr = reader.value("HARKARA_API_ADDR", "127.0.0.1:8080", address);
        let worker_addr = reader.value("HARKARA_WORKER_ADDR", "127.0.0.1:9101", address);
        let scheduler_addr = reader.value("HARKARA_SCHEDULER_ADDR", "127.0.0.1:9102", address);
        let master_keys = reader.optional("HARKARA_MASTER_KEY", |text| {
            MasterKeys::parse(text).map_err(|error| error.to_string())
        });
        let worker_queues = reader.value("HARKARA_WORKER_QUEUES", DEFAULT_QUEUES, queues);
        let drain = reader.value("HARKARA_WORKER_DRAIN_SECS", "30", |text| {
            seconds(text, 0..=3600)
        });
        let lease = reader.value("HARKARA_LEASE_SECS", "30", |text| seconds(text, 1..=3600));
        let worker_memory = reader.value("HARKARA_WORKER_MEMORY_MIB", "64", |text| {
            number(text, 2_u64..=65_536).map(|mib| mib * 1024 * 1024)
        });
        let egress_allow_was_set = reader.raw("HARKARA_EGRESS_ALLOW").is_some();
        let egress_allow = reader.value("HARKARA_EGRESS_ALLOW", "", networks);
        let http = http::read(&mut reader);
        let blob_store = reader.optional("HARKARA_BLOB_URL", |text| {
            let url = Url::parse(text)
                .map_err(|_| "must be a URL such as file:///var/lib/harkara".to_owned())?;
            BlobStore::open(&url).map_err(|error| error.to_string())
        });
        let pg_bin = reader.optional("HARKARA_PG_BIN", |text| Ok(text.to_owned()));
        let production = reader.value("HARKARA_PRODUCTION", "off", switch);
        let log_was_set = reader.raw("HARKARA_LOG").is_some();
        let log = reader.value("HARKARA_LOG", DEFAULT_LOG, log_filter);
        let log_format = reader.value("HARKARA_LOG_FORMAT", "text", |text| match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err("must be `text` or `json`".to_owned()),
        });
        let settings = (|| {
            Some(Self {
                database: match url {
                    None => None,
                    Some(url) => Some(DatabaseSettings {
                        max_connections: connections?,
                        statement_cache: statement_cache?,
                        ..DatabaseSettings::new(url)
                    }),
                },
                notify: notify?,
                listen_url,
                api_addr: api_addr?,
                worker_addr: worker_addr?,
                scheduler_addr: scheduler_addr?,
                master_keys,
                worker_queues: worker_queues?,
                drain: drain?,
                lease: lease?,
                worker_memory: worker_memory?,
                egress_allow: egress_allow?,
                egress_allow_was_set,
                http: http?,
                blob_store,
                pg_bin,
                production: production?,
                log_was_set,
                log: log?,
                log_format: log_format?,
            })
        })();
        match settings {
            Some(settings) if reader.errors.is_empty() => Ok(settings),
            _ => Err(ConfigErrors(reader.errors)),
        }
    }
}

/// A setting that a process cannot run without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// `DATABASE_URL`.
    Database,
    /// `HARKARA_MASTER_KEY`.
    MasterKey,
}

impl Needed {
    fn variable(self) -> &'static str {
        match self {
            Self::Database => "DATABASE_URL",
            Self::MasterKey => "HARKARA_MASTER_KEY",
        }
    }

    /// The error when it is missing.
    fn reason(self) -> &'static str {
        match self {
            Self::Database => "is required, for example postgres://harkara@db.internal/harkara",
            Self::MasterKey => {
                "is required: 32 random bytes in base64, for example from `openssl rand -base64 32`"
            }
        }
    }
}

struct Reader {
    environment: BTreeMap<String, String>,
    file: BTreeMap<String, String>,
    errors: Vec<ConfigError>,
}

impl Reader {
    fn new(environment: BTreeMap<String, String>) -> Self {
        let mut reader = Self {
            environment,
            file: BTreeMap::new(),
            errors: Vec::new(),
        };
        if let Some(path) = reader.environment.get(CONFIG_FILE).cloned() {
            match read_file(&path) {
                Ok(file) => reader.take_file(file),
                Err(reason) => reader.report(CONFIG_FILE, reason),
            }
        }
        reader
    }

    fn take_file(&mut self, file: toml::Table) {
        for (key, value) in file {
            if !is_known(&key) {
                self.report(&key, "is not a Harkara setting");
                continue;
            }
            match value {
                toml::Value::String(text) => {
                    self.file.insert(key, text);
                }
                toml::Value::Integer(number) => {
                    self.file.insert(key, number.to_string());
                }
                toml::Value::Boolean(on) => {
                    self.file
                        .insert(key, if on { "on" } else { "off" }.to_owned());
                }
                _ => self.report(&key, "must be a string, an integer or a boolean"),
            }
        }
    }

    fn raw(&self, name: &str) -> Option<&String> {
        self.environment.get(name).or_else(|| self.file.get(name))
    }

    fn require(&mut self, need: Needed) {
        if self
            .raw(need.variable())
            .is_none_or(|text| text.trim().is_empty())
        {
            self.report(need.variable(), need.reason());
        }
    }

    fn has_error(&self, variable: &str) -> bool {
        self.errors.iter().any(|error| error.variable == variable)
    }

    fn report(&mut self, variable: &str, reason: impl Into<String>) {
        self.errors.push(ConfigError {
            variable: variable.to_owned(),
            reason: reason.into(),
        });
    }

    fn optional<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.raw(name).filter(|text| !text.is_empty())?.clone();
        self.parsed(name, &text, parse)
    }

    fn value<T>(
        &mut self,
        name: &str,
        default: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self
            .raw(name)
            .cloned()
            .unwrap_or_else(|| default.to_owned());
        self.parsed(name, &text, parse)
    }

    fn parsed<T>(
        &mut self,
        name: &str,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parse(text.trim()) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.report(name, reason);
                None
            }
        }
    }
}

fn read_file(path: &str) -> Result<toml::Table, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    text.parse::<toml::Table>()
        .map_err(|error| format!("{path}: {}", error.message()))
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" | "1" => Ok(true),
        "off" | "false" | "0" => Ok(false),
        _ => Err("must be `on` or `off`".to_owned()),
    }
}

fn number<T>(text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + fmt::Display,
{
    text.parse::<T>()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            let (min, max) = (range.start(), range.end());
            format!("must be an integer between {min} and {max}, got `{text}`")
        })
}

fn seconds(text: &str, range: RangeInclusive<u64>) -> Result<Duration, String> {
    number(text, range).map(Duration::from_secs)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("must be an address with a port such as 127.0.0.1:8080, got `{text}`"))
}

fn database_url(text: &str) -> Result<String, String> {
    // The reason never repeats the value, which can contain a password.
    if !(text.starts_with("postgres://") || text.starts_with("postgresql://")) {
        return Err("must start with postgres:// or postgresql://".to_owned());
    }
    sqlx::postgres::PgConnectOptions::from_str(text)
        .map(|_| text.to_owned())
        .map_err(|_| "is not a valid PostgreSQL address".to_owned())
}

fn queues(text: &str) -> Result<Vec<QueueConcurrency>, String> {
    let mut queues: Vec<QueueConcurrency> = Vec::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (queue, concurrency) = part
            .split_once('=')
            .ok_or_else(|| format!("`{part}` must have the form `queue=concurrency`"))?;
        let concurrency = number(concurrency.trim(), 1_u32..=10_000)
            .map_err(|reason| format!("the concurrency of `{queue}` {reason}"))?;
        let queue = queue.trim();
        if !is_queue_name(queue) {
            return Err(format!("`{queue}` is not a queue name: {QUEUE_NAME_RULE}"));
        }
        if queues.iter().any(|known| known.queue == queue) {
            return Err(format!("`{queue}` is listed twice"));
        }
        queues.push(QueueConcurrency {
            queue: queue.to_owned(),
            concurrency,
        });
    }
    if queues.is_empty() {
        Err("must list at least one queue".to_owned())
    } else {
        Ok(queues)
    }
}

/// The rule for queue names, for error messages.
pub const QUEUE_NAME_RULE: &str =
    "1 to 64 of a-z, 0-9, `_`, `.` and `-`, the first a letter or digit";

/// Whether `name` is a valid queue name.
#[must_use]
pub fn is_queue_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-'))
}

fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            part.parse()
                .map_err(|_| format!("`{part}` is not a network such as 10.0.0.0/8"))
        })
        .collect()
}

fn log_filter(text: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::try_new(text)
        .map(|_| text.to_owned())
        .map_err(|error| format!("is not a log filter: {error}"))
}
