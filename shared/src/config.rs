//! Room: configuration, read once at start-up.
//! Takes: environment variables and the TOML file named by `HARKARA_CONFIG` (environment wins).
//! Gives: one [`Settings`], or every mistake at once. Never: is read again while the process runs.

mod http;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use crate::blob::BlobStore;
use crate::database::{DatabaseSettings, DatabaseUrl};
use crate::vault::MasterKeys;

pub use http::{HttpSettings, OidcSettings};

/// One mistake in the configuration: which variable, and why it will not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Name of the variable or key.
    pub variable: String,
    /// What is wrong with it, without its value where that may be a secret.
    pub reason: String,
}

/// All mistakes found in one reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} mistake(s):", self.0.len())?;
        for mistake in &self.0 {
            write!(f, "\n  {}: {}", mistake.variable, mistake.reason)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How many jobs of one queue a worker process runs at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConcurrency {
    /// Name of the queue.
    pub queue: String,
    /// Jobs running at once, at least 1.
    pub concurrency: u32,
}

/// Everything a process of Harkara is told from outside. Defaults stand in `deploy/env.example`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `DATABASE_URL` with what belongs to it; `None` when it is not set.
    pub database: Option<DatabaseSettings>,
    /// Whether workers are woken by NOTIFY; without it they only poll.
    pub notify: bool,
    /// Address for LISTEN when `DATABASE_URL` goes through PgBouncer in transaction mode.
    pub listen_url: Option<DatabaseUrl>,
    /// Where the API listens.
    pub api_addr: SocketAddr,
    /// Where the worker serves health and metrics.
    pub worker_addr: SocketAddr,
    /// Where the scheduler serves health and metrics.
    pub scheduler_addr: SocketAddr,
    /// Keys that seal stored secrets; `None` when not set.
    pub master_keys: Option<MasterKeys>,
    /// Queues the worker runs.
    pub worker_queues: Vec<QueueConcurrency>,
    /// Grace for jobs in flight after SIGTERM.
    pub drain: Duration,
    /// How long a claim outlives its worker.
    pub lease: Duration,
    /// Bytes of memory that the jobs a worker holds may take.
    pub worker_memory: u64,
    /// Private networks that outbound calls may reach.
    pub egress_allow: Vec<IpNet>,
    /// `HARKARA_EGRESS_ALLOW` was set, even if to nothing.
    pub egress_allow_was_set: bool,
    /// How the API is reached, and by whom.
    pub http: HttpSettings,
    /// Where files are kept; `None` when not set.
    pub blob_url: Option<Url>,
    /// Directory of PostgreSQL's programs, for a private database.
    pub pg_bin: Option<String>,
    /// This is production: no private database.
    pub production: bool,
    /// `HARKARA_LOG` was set.
    pub log_was_set: bool,
    /// Filter of the log, in the syntax of `tracing`.
    pub log: String,
    /// Form of the log.
    pub log_format: LogFormat,
}

/// The keys a configuration file may hold. A key of a later release is not here, so that a
/// misspelt one is told.
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

/// Whether `name` is a setting.
#[must_use]
pub fn is_known(name: &str) -> bool {
    KNOWN.contains(&name) || http::KNOWN.contains(&name)
}

/// All settings by name.
pub fn known() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().chain(http::KNOWN).copied()
}

/// The log's filter when none is set.
const DEFAULT_LOG: &str = "info";

const DEFAULT_QUEUES: &str =
    "message=64,webhook=256,http=256,billing=16,maintenance=2,report=4,probe=64";

impl Settings {
    /// The place where files are kept, if there is one.
    #[must_use]
    pub fn blobs(&self) -> Option<BlobStore> {
        // The address was looked at when it was read.
        self.blob_url
            .as_ref()
            .and_then(|url| BlobStore::open(url).ok())
    }

    /// Reads the process environment and the file it names, for a process that cannot run without
    /// what is `needed`.
    ///
    /// # Errors
    /// Every mistake found, together with what is missing.
    pub fn from_environment(needed: &[Needed]) -> Result<Self, ConfigErrors> {
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self::read(environment, needed)
    }

    /// Reads the given variables and the file named by `HARKARA_CONFIG` among them.
    ///
    /// # Errors
    /// Every mistake found, together with what is missing.
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
            number(text, 4, 1000).and_then(|n| u32::try_from(n).map_err(|error| error.to_string()))
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
            seconds(text, 0, 3600)
        });
        let lease = reader.value("HARKARA_LEASE_SECS", "30", |text| seconds(text, 1, 3600));
        let worker_memory = reader.value("HARKARA_WORKER_MEMORY_MIB", "64", |text| {
            number(text, 2, 65_536).map(|mib| mib * 1024 * 1024)
        });
        let egress_allow_was_set = reader.raw("HARKARA_EGRESS_ALLOW").is_some();
        let egress_allow = reader.value("HARKARA_EGRESS_ALLOW", "", networks);
        let http = http::read(&mut reader);
        let blob_url = reader.optional("HARKARA_BLOB_URL", |text| {
            let url = Url::parse(text)
                .map_err(|_| "is not a URL such as file:///var/lib/harkara".to_owned())?;
            BlobStore::open(&url).map_err(|error| error.to_string())?;
            Ok(url)
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
                blob_url,
                pg_bin,
                production: production?,
                log_was_set,
                log: log?,
                log_format: log_format?,
            })
        })();
        match settings {
            Some(settings) if reader.mistakes.is_empty() => Ok(settings),
            _ => Err(ConfigErrors(reader.mistakes)),
        }
    }
}

/// What a process cannot run without.
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

    /// What is said when it is missing.
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
    mistakes: Vec<ConfigError>,
}

impl Reader {
    fn new(environment: BTreeMap<String, String>) -> Self {
        let mut reader = Self {
            environment,
            file: BTreeMap::new(),
            mistakes: Vec::new(),
        };
        if let Some(path) = reader.environment.get("HARKARA_CONFIG").cloned() {
            match read_file(&path) {
                Ok(file) => reader.take_file(file),
                Err(reason) => reader.mistake("HARKARA_CONFIG", reason),
            }
        }
        reader
    }

    fn take_file(&mut self, file: toml::Table) {
        for (key, value) in file {
            if !is_known(&key) {
                self.mistake(&key, "is not a setting of Harkara");
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
                _ => self.mistake(&key, "must be a string, an integer or a boolean"),
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
            self.mistake(need.variable(), need.reason());
        }
    }

    fn is_mistaken(&self, variable: &str) -> bool {
        self.mistakes
            .iter()
            .any(|mistake| mistake.variable == variable)
    }

    fn mistake(&mut self, variable: &str, reason: impl Into<String>) {
        self.mistakes.push(ConfigError {
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
                self.mistake(name, reason);
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

fn number(text: &str, least: u64, most: u64) -> Result<u64, String> {
    text.parse::<u64>()
        .ok()
        .filter(|n| (least..=most).contains(n))
        .ok_or_else(|| format!("must be a whole number from {least} to {most}, not `{text}`"))
}

fn seconds(text: &str, least: u64, most: u64) -> Result<Duration, String> {
    number(text, least, most).map(Duration::from_secs)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("must be an address with a port such as 127.0.0.1:8080, not `{text}`"))
}

fn database_url(text: &str) -> Result<String, String> {
    // The reason never repeats the value: it may hold a password.
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
            .ok_or_else(|| format!("`{part}` must look like queue=concurrency"))?;
        let concurrency = number(concurrency.trim(), 1, 10_000)
            .map_err(|reason| format!("the concurrency of `{queue}` {reason}"))?;
        let queue = queue.trim();
        if !is_queue_name(queue) {
            return Err(format!("`{queue}` is not a queue name: {QUEUE_NAME_RULE}"));
        }
        if queues.iter().any(|known| known.queue == queue) {
            return Err(format!("`{queue}` is named twice"));
        }
        let concurrency = u32::try_from(concurrency).unwrap_or(u32::MAX);
        queues.push(QueueConcurrency {
            queue: queue.to_owned(),
            concurrency,
        });
    }
    if queues.is_empty() {
        Err("names no queue".to_owned())
    } else {
        Ok(queues)
    }
}

/// What a queue's name must look like, in words.
pub const QUEUE_NAME_RULE: &str =
    "1 to 64 of a-z, 0-9, `_`, `.` and `-`, the first a letter or digit";

/// Whether `name` may name a queue.
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
