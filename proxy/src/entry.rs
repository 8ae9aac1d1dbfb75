//! From the command line to a running proxy, and to its exit code.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory;
use pillion_mesh::yaml::{self, YamlError};
use tracing::{error, info};

use crate::app::{self, AppError};
use crate::reload::{self, ReloadError};
use crate::settings::{Arguments, Faults, LogFormat, Program, RawSettings, Settings};
use crate::telemetry::log::{self, LogLevelError};
use crate::workers::Workers;

pub(crate) use crate::telemetry::log::LogLevel;

/// A file larger than this is no settings file.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// The proxy failed while it ran.
const RUNTIME_FAILURE: u8 = 1;
/// Arguments, settings or mesh resources are wrong.
const WRONG_SETTINGS: u8 = 2;

/// How long blocking work, such as a DNS look-up, may hold up the end of the process.
pub(crate) const LAST_WORK: Duration = Duration::from_millis(200);

/// Why there is nothing to run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("{path}: {fault}; --config names a readable YAML file")]
    Unreadable { path: String, fault: String },
    #[error(transparent)]
    Yaml(#[from] YamlError),
    #[error(transparent)]
    Faults(#[from] Faults),
    #[error("{0}\nno settings file was given; name it by --config FILE")]
    FaultsWithoutFile(Faults),
    #[error(transparent)]
    Resources(#[from] ReloadError),
    #[error("RUST_LOG: {0}")]
    LogLevel(#[from] LogLevelError),
}

/// Runs `pillion-proxy` with `args`, of which the first is the program's name, until it is told to stop.
///
/// Exit codes: 0 clean, 1 runtime failure, 2 wrong arguments, settings or mesh resources.
pub fn main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    run(Program::Proxy, args)
}

/// The command line's definition, for completion scripts and manual pages.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs `pillion-ca agent` likewise, for a workload that has no sidecar: a proxy that takes in no connection, keeps an
/// identity and serves it by the SPIFFE Workload API.
pub fn agent_main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    run(Program::Agent, args)
}

fn run(program: Program, args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::parse(program, args) {
        Ok(arguments) => arguments,
        Err(message) => {
            // Nothing is left to do when the terminal is gone.
            let _ = message.print();
            return if message.use_stderr() { ExitCode::from(WRONG_SETTINGS) } else { ExitCode::SUCCESS };
        }
    };
    let check = arguments.check;
    let done = settings(program, arguments)
        .and_then(|settings| if check { check_only(&settings) } else { start(program, settings) });
    done.unwrap_or_else(|fault| {
        for line in fault.to_string().lines() {
            eprintln!("{}: {line}", program.name());
        }
        ExitCode::from(WRONG_SETTINGS)
    })
}

/// Flags over environment over file, then checked.
fn settings(program: Program, arguments: Arguments) -> Result<Settings, SettingsError> {
    let Some(path) = &arguments.config else {
        let alone = arguments.settings.over(RawSettings::default());
        return alone.check(program).map_err(SettingsError::FaultsWithoutFile);
    };
    Ok(arguments.settings.over(read(path)?).check(program)?)
}

/// The settings of a file alone, without flags and environment.
pub(crate) fn settings_of_file(path: &Path) -> Result<Settings, SettingsError> {
    Ok(Settings::try_from(read(path)?)?)
}

fn read(path: &Path) -> Result<RawSettings, SettingsError> {
    let unreadable = |fault: String| SettingsError::Unreadable { path: path.display().to_string(), fault };
    let mut text = String::new();
    // A device may go on for ever.
    File::open(path)
        .and_then(|file| file.take(MAX_CONFIG_BYTES + 1).read_to_string(&mut text))
        .map_err(|fault| unreadable(fault.to_string()))?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(unreadable(format!("has more than {MAX_CONFIG_BYTES} bytes")));
    }
    Ok(yaml::read(&path.display().to_string(), &text)?)
}

fn check_only(settings: &Settings) -> Result<ExitCode, SettingsError> {
    let (snapshot, _) = reload::load(settings)?;
    for finding in &snapshot.findings {
        eprintln!("pillion-proxy: {}: {} {}: {finding}", finding.place, finding.severity, finding.code);
    }
    for line in settings.to_lines() {
        println!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}

fn start(program: Program, settings: Settings) -> Result<ExitCode, SettingsError> {
    let level = log::init(settings.log_format, &std::env::var("RUST_LOG").unwrap_or_default())?;
    announce(program, &settings);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (runtime, workers) = match runtime.and_then(|runtime| Ok((runtime, Workers::start()?))) {
        Ok(started) => started,
        Err(fault) => {
            error!(%fault, "cannot start threads");
            return Ok(ExitCode::from(RUNTIME_FAILURE));
        }
    };
    let ended = runtime.block_on(app::run(settings, level, workers));
    runtime.shutdown_timeout(LAST_WORK);
    Ok(match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            error!("{fault}");
            ExitCode::from(exit_code(&fault))
        }
    })
}

fn exit_code(fault: &AppError) -> u8 {
    match fault {
        AppError::Resources(_) | AppError::WorkloadId(_) => WRONG_SETTINGS,
        #[cfg(feature = "workload-api")]
        AppError::WorkloadApi { .. } => RUNTIME_FAILURE,
        AppError::Listen { .. } | AppError::KeyLog { .. } | AppError::Signals(_) => RUNTIME_FAILURE,
    }
}

/// The settings in force: a line each for people, one object for machines.
fn announce(program: Program, settings: &Settings) {
    let (name, version) = (program.name(), env!("CARGO_PKG_VERSION"));
    info!(record = %settings.to_json(), "{name} {version}, settings in force:");
    if settings.log_format == LogFormat::Text {
        for line in settings.to_lines() {
            info!("  {line}");
        }
    }
}
