//! `harkara`: the platform on one machine (`up`), and the tools worked by hand.
//!
//! Takes: a command. Gives: a running platform, or one change and one answer. Never: holds a rule
//! of its own: everything here calls another room.

mod hand;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use harkara_shared::config::Settings;
use harkara_shared::process;

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
    /// Bring the database's schema to this release
    Migrate(Place),
    /// Tenants
    #[command(subcommand)]
    Tenant(hand::TenantCommand),
    /// Jobs
    #[command(subcommand)]
    Job(hand::JobCommand),
    /// Workers
    #[command(subcommand)]
    Worker(hand::WorkerCommand),
    /// Queues
    #[command(subcommand)]
    Queue(hand::QueueCommand),
    /// Show what happened to a tenant's jobs, step by step
    Stats(hand::StatsCommand),
    /// Limits of tenants, and of the keys their jobs name
    #[command(subcommand)]
    Limit(hand::LimitCommand),
    /// Database roles of applications that enqueue in their own transactions
    #[command(subcommand)]
    Client(hand::ClientCommand),
    /// API keys
    #[command(subcommand)]
    Key(hand::KeyCommand),
    /// The audit log
    #[command(subcommand)]
    Audit(hand::AuditCommand),
    /// People who sign in
    #[command(subcommand)]
    User(hand::UserCommand),
}

/// How `up` runs.
#[derive(Debug, Clone, Args)]
struct UpArgs {
    /// Port of the API on 127.0.0.1; without it `HARKARA_API_ADDR` rules
    #[arg(long)]
    port: Option<u16>,
    /// Where the private database and the keys are kept
    #[arg(long, default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// Leave out the demonstration
    #[arg(long)]
    no_demo: bool,
}

/// Which platform a tool works on: the one of `DATABASE_URL`, else the running one of a data
/// directory.
#[derive(Debug, Clone, Args)]
struct Place {
    /// Data directory of a running `harkara up`, used when `DATABASE_URL` is not set
    #[arg(long, default_value = DATA_DIR)]
    data_dir: PathBuf,
}

const DATA_DIR: &str = ".harkara";

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    process::exit(run(cli).await)
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let settings = Settings::from_environment(&[])?;
    match cli.command {
        None => {
            let default = UpArgs {
                port: None,
                data_dir: DATA_DIR.into(),
                no_demo: false,
            };
            up::run(default, settings).await
        }
        Some(Command::Up(args)) => up::run(args, settings).await,
        Some(Command::Migrate(place)) => hand::migrate(&place, &settings).await,
        Some(Command::Tenant(command)) => hand::tenant(command, &settings).await,
        Some(Command::Job(command)) => hand::job(command, &settings).await,
        Some(Command::Worker(command)) => hand::worker(command, &settings).await,
        Some(Command::Queue(command)) => hand::queue(command, &settings).await,
        Some(Command::Stats(command)) => hand::stats(command, &settings).await,
        Some(Command::Limit(command)) => hand::limit(command, &settings).await,
        Some(Command::Client(command)) => hand::client(command, &settings).await,
        Some(Command::Key(command)) => hand::key(command, &settings).await,
        Some(Command::Audit(command)) => hand::audit(command, &settings).await,
        Some(Command::User(command)) => hand::user(command, &settings).await,
    }
}
