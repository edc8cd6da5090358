//! `harkara`: runs the platform on one machine (`up`) or one of its services, and manages a running platform.
//!
//! This crate contains no rules of its own: every command calls the crate that owns the rule.

mod commands;
mod output;
mod target;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use harkara_shared::config::Settings;
use harkara_shared::{process, telemetry};

use target::Target;
use up::UpArgs;

/// A durable, multi-tenant job platform on PostgreSQL. Without a command: `harkara up`.
#[derive(Debug, Parser)]
#[command(name = "harkara", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole platform on this machine
    Up(UpArgs),
    /// Migrate the database schema to this release
    Migrate(Target),
    /// Run the API: as `harkara-api`
    Api,
    /// Run the scheduler: as `harkara-scheduler`
    Scheduler,
    /// Run a worker, as `harkara-worker`, or inspect the workers that run
    Worker {
        #[command(subcommand)]
        command: Option<commands::WorkerCommand>,
    },
    /// Manage tenants
    #[command(subcommand)]
    Tenant(commands::TenantCommand),
    /// Inspect and change jobs
    #[command(subcommand)]
    Job(commands::JobCommand),
    /// Inspect and change queues
    #[command(subcommand)]
    Queue(commands::QueueCommand),
    /// Show statistics of a tenant's jobs over time
    Stats(commands::StatsCommand),
    /// Manage the limits of tenants and of the keys that jobs name
    #[command(subcommand)]
    Limit(commands::LimitCommand),
    /// Manage database roles of applications that enqueue in their own transactions
    #[command(subcommand)]
    Client(commands::ClientCommand),
    /// Manage API keys
    #[command(subcommand)]
    Key(commands::KeyCommand),
    /// Read and verify the audit log
    #[command(subcommand)]
    Audit(commands::AuditCommand),
    /// Manage users
    #[command(subcommand)]
    User(commands::UserCommand),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    process::exit(run(cli).await)
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    // A service fails at start with all that is missing, not at the first use of it.
    let needed = match &cli.command {
        Some(Command::Api) => harkara_api::NEEDED,
        Some(Command::Scheduler) => harkara_scheduler::NEEDED,
        Some(Command::Worker { command: None }) => harkara_worker::NEEDED,
        _ => &[],
    };
    let settings = Settings::from_environment(needed)?;
    match cli.command {
        None => up::run(UpArgs::default(), settings).await,
        Some(Command::Up(args)) => up::run(args, settings).await,
        Some(Command::Api) => service(settings, harkara_api::run).await,
        Some(Command::Scheduler) => service(settings, harkara_scheduler::run).await,
        Some(Command::Worker { command: None }) => service(settings, harkara_worker::run).await,
        Some(Command::Migrate(target)) => {
            telemetry::start_log(&settings);
            commands::migrate(&target, &settings).await
        }
        Some(Command::Tenant(command)) => commands::tenant(command, &settings).await,
        Some(Command::Job(command)) => commands::job(command, &settings).await,
        Some(Command::Worker {
            command: Some(command),
        }) => commands::worker(command, &settings).await,
        Some(Command::Queue(command)) => commands::queue(command, &settings).await,
        Some(Command::Stats(command)) => commands::stats(command, &settings).await,
        Some(Command::Limit(command)) => commands::limit(command, &settings).await,
        Some(Command::Client(command)) => commands::client(command, &settings).await,
        Some(Command::Key(command)) => commands::key(command, &settings).await,
        Some(Command::Audit(command)) => commands::audit(command, &settings).await,
        Some(Command::User(command)) => commands::user(command, &settings).await,
    }
}

/// Runs one service with its log.
async fn service<F>(settings: Settings, run: impl FnOnce(Settings) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    telemetry::start_log(&settings);
    run(settings).await
}
