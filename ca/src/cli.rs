//! Arguments to action: the commands of `pillion-ca` and their exit codes.

mod roots;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use pillion_mesh::duration;
use pillion_mesh::spiffe::SpiffeId;
use pillion_mesh::wire::rfc3339;
use pillion_mesh::yaml;
use rustls_pki_types::ServerName;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::attest::jwt::Issuers;
use crate::attest::{Attestor, delivery};
use crate::authority::Authority;
use crate::clock::Clock;
use crate::external::External;
use crate::fault::{self, Fault};
use crate::keeper::{Keeper, Plan};
use crate::server::{Faults, Server};
use crate::settings::{Overrides, Settings};
use crate::store::{self, State};

/// The certificate authority of the mesh: signs the CSRs of workloads it can identify
#[derive(Parser)]
#[command(name = "pillion-ca", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the CA until SIGTERM or SIGINT
    Serve {
        #[command(flatten)]
        configuration: Configuration,
        /// Check the configuration, touch nothing, and exit
        #[arg(long)]
        check: bool,
        /// How log lines look on stderr; what is logged is chosen by RUST_LOG [default level: info]
        #[arg(long, env = "PILLION_CA_LOG_FORMAT", default_value = "text")]
        log_format: LogFormat,
        #[arg(long = "fault", value_name = "NAME", value_parser = Fault::parse, help = fault::help())]
        faults: Vec<Fault>,
    },
    /// Tokens, by which a workload proves its identity the first time
    #[command(subcommand)]
    Token(TokenCommand),
    /// The root certificates: which there are, and their replacement
    #[command(subcommand)]
    Root(RootCommand),
    /// Keep an identity and serve it by the SPIFFE Workload API, where there is no sidecar
    #[command(disable_help_flag = true)]
    Agent {
        /// Its arguments; try --help
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT", hide = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Print a new token for a registered identity; it counts at once, also with a CA that is running
    Create {
        #[command(flatten)]
        configuration: Configuration,
        /// The identity that the token stands for
        #[arg(long, value_name = "SPIFFE_ID")]
        id: SpiffeId,
        /// How long the token counts
        #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration::parse)]
        ttl: Duration,
        /// Let it count for one certificate only, as for a person who hands it to a machine's first start
        #[arg(long)]
        once: bool,
    },
}

#[derive(Subcommand)]
enum RootCommand {
    /// Print each root with its validity and what it is for, and what comes next
    Status {
        #[command(flatten)]
        configuration: Configuration,
        /// For people, or for programs
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Output,
    },
    /// Make a next root and publish it, so that everybody knows it before it signs
    Prepare {
        #[command(flatten)]
        configuration: Configuration,
    },
    /// Let the next root sign
    Activate {
        #[command(flatten)]
        configuration: Configuration,
        /// Do it though workloads would be cut off
        #[arg(long)]
        force: bool,
    },
    /// Take old roots, which sign no more, out of the bundle
    Retire {
        #[command(flatten)]
        configuration: Configuration,
        /// Only the one of this name
        #[arg(long, value_name = "ROOT")]
        name: Option<String>,
        /// Do it though workloads would be cut off
        #[arg(long)]
        force: bool,
    },
}

#[derive(Args)]
struct Configuration {
    /// The configuration file (YAML)
    #[arg(long, env = "PILLION_CA_CONFIG", value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
}

impl Configuration {
    fn load(self) -> Result<Settings, Failure> {
        Settings::load(&self.config, self.overrides).map_err(|error| Failure::Configuration(error.into()))
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// How a listing is printed; as `pillion` has it.
#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
    Yaml,
}

impl Output {
    /// Prints `document` for programs, or `text` for people.
    fn print(self, document: &impl Serialize, text: &str) -> Result<(), Failure> {
        match self {
            Self::Table => print(text),
            Self::Json => print(&serde_json::to_string_pretty(document)?),
            Self::Yaml => print(yaml::print(document).map_err(anyhow::Error::msg)?.trim_end()),
        }
    }
}

/// Whose fault it is decides on the exit code.
enum Failure {
    /// Arguments or configuration: 2.
    Configuration(anyhow::Error),
    /// Everything after them: 1.
    Runtime(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Runtime(error.into())
    }
}

/// What [`crate::command`] gives.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

pub(crate) fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors and go to stdout.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let done = match cli.command {
        Command::Serve { configuration, check: true, .. } => check(configuration),
        Command::Serve { configuration, log_format, faults, .. } => serve(configuration, log_format, &faults),
        Command::Token(TokenCommand::Create { configuration, id, ttl, once }) => {
            create_token(configuration, &id, ttl, once)
        }
        Command::Root(command) => roots::run(command),
        // Made of the sidecar's identity, which is not in this crate.
        Command::Agent { .. } => Err(Failure::Configuration(anyhow::anyhow!(
            "the agent is part of the program pillion: run `pillion ca agent`, or call that file pillion-ca"
        ))),
    };
    let (error, code) = match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Configuration(error)) => (error, 2),
        Err(Failure::Runtime(error)) => (error, 1),
    };
    let _ = writeln!(std::io::stderr(), "pillion-ca: {}", with_causes(&error));
    ExitCode::from(code)
}

/// The error and its causes, but for those whose words stand in an outer one already.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
        if text.is_empty() {
            cause
        } else if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

fn check(configuration: Configuration) -> Result<(), Failure> {
    let file = configuration.config.display().to_string();
    configuration.load()?;
    print(&format!("{file}: ok"))
}

fn serve(configuration: Configuration, log_format: LogFormat, faults: &[Fault]) -> Result<(), Failure> {
    let settings = configuration.load()?;
    start_logging(log_format)?;
    tracing::info!(
        trust_domain = settings.trust_domain.as_str(),
        state = %settings.state.display(),
        dns_names = ?settings.dns_names.iter().map(ServerName::to_str).collect::<Vec<_>>(),
        workload_ttl = duration::print(settings.workload_ttl.default),
        workload_ttl_max = duration::print(settings.workload_ttl.max),
        registrations = settings.registrations.len(),
        "starting"
    );
    if settings.registrations.is_empty() {
        tracing::warn!("registrations: there are none, so nobody can get a certificate");
    }
    let clock = clock(&settings);
    let now = clock.now();
    let state = State::open(&settings.state)?;
    let rotation = settings.rotation;
    let usual_life = settings.workload_ttl.default;
    let read = |files| External::read(files, &settings.trust_domain, now);
    let external = settings.signer.as_ref().map(read).transpose()?;
    let signers = state.signers(
        &settings.trust_domain,
        rotation.root,
        settings.workload_ttl,
        external.as_ref(),
        now,
    )?;
    let plan = Plan {
        policy: rotation.policy(clock),
        automatic: rotation.automatic,
        usual_life,
        bundle_file: settings.bundle_file.clone(),
        trust_domain: settings.trust_domain.clone(),
        external: settings.signer.clone(),
    };
    let keeper = Arc::new(Keeper::new(signers, external, plan, clock)?);
    keeper.catch_up();
    let ids = settings.registrations.iter().map(|registration| registration.id.clone());
    let issuers = Arc::new(Issuers::new(&settings.issuers));
    let attestor = Attestor::new(settings.trust_domain.clone(), ids, state.tokens()?);
    let attestor = attestor.with_issuers(Arc::clone(&issuers));
    let authority = Authority::new(Arc::clone(&keeper), settings.workload_ttl, clock);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = stop_on_signals()?;
        let Settings { listen, monitoring, limits, .. } = settings;
        let names = settings.dns_names.clone();
        let faults = Faults::new(faults, &settings.trust_domain, clock)?;
        let server = Server::bind(listen, monitoring, names, limits, authority, attestor, faults).await?;
        // Only now that the ports are ours: a second CA started by mistake spoils nothing that the first has delivered.
        keeper.deliver()?;
        let life = settings.token_life;
        state.tokens()?.deliver(&settings.registrations, life, now)?;
        issuers.watch(&stop);
        state.serving_since(clock.now());
        let keeping = tokio::spawn(Arc::clone(&keeper).run(stop.clone()));
        if let Some(life) = life {
            let registrations = settings.registrations.clone();
            tokio::spawn(delivery::run(state.tokens()?, registrations, life, clock, stop.clone()));
        }
        server.run(stop).await;
        let _ = keeping.await;
        tracing::info!("stopped");
        Ok(())
    })
}

/// The clock to serve by; one that hurries is loud.
fn clock(settings: &Settings) -> Clock {
    let start = SystemTime::now();
    if let Some(hurry) = settings.hurry {
        let origin = rfc3339::print(hurry.origin.unwrap_or(start));
        tracing::warn!(
            factor = hurry.factor,
            origin = origin.as_str(),
            "TIME IS HURRIED (time.scale): certificates live that much shorter; proxies need the same factor and origin. Only for lessons and tests"
        );
    }
    Clock::new(settings.hurry, start)
}

/// The clock of a CA that serves elsewhere.
fn clock_beside(settings: &Settings) -> Result<Clock, Failure> {
    if settings.hurry.is_some_and(|hurry| hurry.origin.is_none()) {
        let fault = "time.origin: without it nobody but the serving CA knows its hurried time; write the same time for both";
        return Err(Failure::Configuration(anyhow::anyhow!(fault)));
    }
    Ok(Clock::new(settings.hurry, SystemTime::now()))
}

fn create_token(
    configuration: Configuration,
    id: &SpiffeId,
    ttl: Duration,
    once: bool,
) -> Result<(), Failure> {
    let settings = configuration.load()?;
    if !settings.registrations.iter().any(|registration| registration.id == *id) {
        let fault = anyhow::anyhow!("{id} is not in registrations; add it there and restart the CA");
        return Err(Failure::Configuration(fault));
    }
    let now = clock_beside(&settings)?.now();
    let not_after = now.checked_add(ttl).context("--ttl is too long")?;
    let tokens = store::tokens_beside(&settings.state)?;
    let token = if once { tokens.create_once(id, not_after) } else { tokens.create(id, Some(not_after)) }?;
    print(token.reveal())
}

fn print(text: &str) -> Result<(), Failure> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// Logs to stderr. Where a program that holds this library has set up logging already, that stays.
///
/// The audit log is there at every level, unless RUST_LOG turns it off by its name, `audit=off`.
fn start_logging(format: LogFormat) -> Result<(), Failure> {
    let wish = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(format!("audit=info,{wish}"))
        .context("RUST_LOG is not a filter such as info or pillion_ca=debug")
        .map_err(Failure::Configuration)?;
    let colour = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        // A line that cannot be written is lost: to complain on the same stderr would be a panic.
        .log_internal_errors(false);
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// Cancelled by SIGTERM and by SIGINT.
fn stop_on_signals() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind)?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            stop.cancel();
        });
    }
    Ok(stop)
}
