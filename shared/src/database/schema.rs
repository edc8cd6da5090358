//! The schema that this release needs, and the check that a database has it.
//!
//! A schema is the versioned files of `migrations/` and the functions of `migrations/functions/`. A process checks
//! it at start and in `/readyz`; only [`migrate`](fn@super::migrate) changes it. A newer schema is accepted as long as
//! it permits this release: `migrations/README.md` describes how a migration declares the oldest release that can
//! still run.

use std::borrow::Cow;
use std::sync::LazyLock;

use include_dir::{Dir, include_dir};
use semver::Version;
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use sqlx::migrate::{Migration, Migrator};

use super::{Error, query_as, query_scalar};

static MIGRATOR: Migrator = sqlx::migrate!("../migrations");

static FUNCTIONS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/../migrations/functions");

#[expect(
    clippy::expect_used,
    reason = "a constant that Cargo has checked already"
)]
static EMBEDDED: LazyLock<Schema> = LazyLock::new(|| {
    Schema::new(
        MIGRATOR.iter().cloned().collect(),
        embedded_functions(&FUNCTIONS),
        Version::parse(env!("CARGO_PKG_VERSION")).expect("Cargo accepts only semantic versions"),
    )
});

/// First words of the line by which a migration declares the oldest release that can run on its schema.
const OLDEST_RELEASE: &str = "-- oldest-release:";

/// One file of `migrations/functions/`: it creates or replaces a function and grants its use.
#[derive(Debug, Clone)]
pub struct Function {
    /// Schema and name, such as `queue.claim`.
    pub name: Cow<'static, str>,
    /// The file's text.
    pub sql: &'static str,
}

impl Function {
    /// SHA-256 of the text, in hexadecimal digits.
    #[must_use]
    pub fn checksum(&self) -> String {
        hex(&Sha256::digest(self.sql))
    }
}

/// What a release needs of its database.
#[derive(Debug, Clone)]
pub struct Schema {
    pub(super) migrations: Vec<Migration>,
    pub(super) functions: Vec<Function>,
    pub(super) release: Version,
    /// Identifies the text of all functions.
    pub(super) digest: String,
}

/// Why this release cannot run on a database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Migrations have not been run, or not all of them.
    #[error(
        "the database schema is at version {found}, this release needs {needed}: run `harkara migrate`"
    )]
    Outdated {
        /// Highest migration applied; 0 for an empty database.
        found: i64,
        /// Highest migration of this release.
        needed: i64,
    },
    /// All migrations have been applied, and the functions of this release are not installed yet.
    #[error(
        "the functions of this release are not installed in the database: run `harkara migrate`"
    )]
    FunctionsOutdated,
    /// The schema was made before the first release, by migrations that no longer exist.
    #[error(
        "this database was created by a pre-release version of Harkara, which cannot be upgraded: \
         create a new database and run `harkara migrate`"
    )]
    PreRelease,
    /// The schema has moved beyond this release.
    #[error(
        "this process is release {release}, and the database schema requires release {oldest} or \
         newer: upgrade this process"
    )]
    ReleaseTooOld {
        /// The running release.
        release: Version,
        /// The oldest release that can run on the schema.
        oldest: Version,
    },
    /// A release that the database or a migration names cannot be read.
    #[error("the schema names {0:?} as a release, which is not a version such as 1.2.3")]
    NotARelease(String),
}

impl Schema {
    /// The schema that was compiled into this binary.
    #[must_use]
    pub fn embedded() -> &'static Self {
        &EMBEDDED
    }

    /// A schema of these parts; migrations in the order of their versions.
    #[must_use]
    pub fn new(migrations: Vec<Migration>, functions: Vec<Function>, release: Version) -> Self {
        let mut digest = Sha256::new();
        for function in &functions {
            digest.update(format!("{} {}\n", function.name, function.checksum()));
        }
        let digest = hex(&digest.finalize());
        Self {
            migrations,
            functions,
            release,
            digest,
        }
    }

    /// The versioned migrations, oldest first.
    #[must_use]
    pub fn migrations(&self) -> &[Migration] {
        &self.migrations
    }

    /// The functions, by name.
    #[must_use]
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// The release that this schema belongs to.
    #[must_use]
    pub fn release(&self) -> &Version {
        &self.release
    }

    /// Highest version of the migrations; 0 if there are none.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.migrations
            .iter()
            .map(|migration| migration.version)
            .max()
            .unwrap_or(0)
    }

    /// Checks that the database has at least this schema, and permits this release.
    ///
    /// # Errors
    /// [`Error::Schema`] when it does not, [`Error::Sqlx`] when it cannot be read.
    pub async fn check(&self, pool: &PgPool) -> Result<(), Error> {
        let state = match read_state(pool).await {
            Ok(Some(state)) => state,
            Ok(None) => return Err(self.outdated(0).into()),
            Err(error) if is_undefined_table(&error) => {
                let is_pre_release = query_scalar::<bool>(HAS_PRE_RELEASE_TABLES)
                    .fetch_one(pool)
                    .await?;
                return Err(if is_pre_release {
                    SchemaError::PreRelease.into()
                } else {
                    self.outdated(0).into()
                });
            }
            Err(error) => return Err(error.into()),
        };
        self.permits(&state)?;
        if state.version < self.version() {
            return Err(self.outdated(state.version).into());
        }
        if !self.has_functions(&state)? {
            return Err(SchemaError::FunctionsOutdated.into());
        }
        Ok(())
    }

    /// Refuses a schema that requires a newer release.
    pub(super) fn permits(&self, state: &State) -> Result<(), SchemaError> {
        let oldest = release(&state.oldest_release)?;
        if self.release < oldest {
            return Err(SchemaError::ReleaseTooOld {
                release: self.release.clone(),
                oldest,
            });
        }
        Ok(())
    }

    /// Whether the functions of this build have been installed, or those of a newer release. Functions that replace them
    /// keep what an older build relies on.
    pub(super) fn has_functions(&self, state: &State) -> Result<bool, SchemaError> {
        let Some(installed) = &state.functions_release else {
            return Ok(false);
        };
        Ok(state.functions_history.contains(&self.digest) || release(installed)? > self.release)
    }

    /// Whether the functions of this build are to be installed: others are, and not of a newer release.
    pub(super) fn replaces_functions(&self, state: &State) -> Result<bool, SchemaError> {
        match &state.functions_release {
            Some(installed) => {
                let installed = release(installed)?;
                let is_current = state.functions_digest.as_ref() == Some(&self.digest);
                Ok(installed < self.release || installed == self.release && !is_current)
            }
            None => Ok(true),
        }
    }

    fn outdated(&self, found: i64) -> SchemaError {
        SchemaError::Outdated {
            found,
            needed: self.version(),
        }
    }
}

/// The oldest release that can run once `migration` has been applied, by its own declaration.
///
/// # Errors
/// [`SchemaError::NotARelease`] when it declares something else, or nothing.
pub fn oldest_release(migration: &Migration) -> Result<Version, SchemaError> {
    let declared = migration
        .sql
        .as_str()
        .lines()
        .find_map(|line| line.strip_prefix(OLDEST_RELEASE))
        .unwrap_or_default();
    release(declared.trim())
}

/// The files `<schema>/<name>.sql` below `root`.
fn embedded_functions(root: &'static Dir<'static>) -> Vec<Function> {
    let mut functions: Vec<Function> = root
        .dirs()
        .flat_map(Dir::files)
        .filter_map(|file| {
            let path = file.path().with_extension("");
            Some(Function {
                name: path.to_str()?.replace('/', ".").into(),
                sql: file.contents_utf8()?,
            })
        })
        .collect();
    functions.sort_by(|one, other| one.name.cmp(&other.name));
    functions
}

fn release(text: &str) -> Result<Version, SchemaError> {
    Version::parse(text).map_err(|_| SchemaError::NotARelease(text.to_owned()))
}

/// What the database records about its schema.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct State {
    pub(super) version: i64,
    pub(super) oldest_release: String,
    pub(super) functions_release: Option<String>,
    pub(super) functions_digest: Option<String>,
    pub(super) functions_history: Vec<String>,
}

/// The schema's state; an error of an undefined table when the database has no schema.
pub(super) async fn read_state<'c>(
    executor: impl sqlx::PgExecutor<'c>,
) -> Result<Option<State>, sqlx::Error> {
    query_as::<State>(
        "select coalesce((select max(version) from _sqlx_migrations where success), 0) as version,
             oldest_release, functions_release, functions_digest, functions_history
         from app.schema_state",
    )
    .fetch_optional(executor)
    .await
}

/// Whether tables exist that only migrations made. Asked when the table of the schema's state is missing.
pub(super) const HAS_PRE_RELEASE_TABLES: &str =
    "select to_regclass('app.tenants') is not null or to_regclass('queue.tenants') is not null";

pub(super) fn is_undefined_table(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.code().as_deref() == Some("42P01"))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
