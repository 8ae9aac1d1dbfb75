//! The command line of `pillion-proxy`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, CommandFactory, FromArgMatches, Parser};

use super::{Program, RawSettings};

/// Sidecar proxy: gives a service mutual TLS with SPIFFE identities, without the service knowing.
///
/// Settings come from flags, over environment variables, over the YAML file. A flag is the setting's path in the file in
/// kebab-case: inbound.capture is --inbound-capture. Lists of listeners come from the file alone.
#[derive(Debug, Clone, Parser)]
#[command(name = "pillion-proxy", version, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// YAML file with the settings
    #[arg(long, value_name = "FILE", env = "PILLION_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Check the settings and the mesh resources, then exit
    #[arg(long)]
    pub(crate) check: bool,
    /// What flags and environment say.
    #[command(flatten)]
    pub(crate) settings: RawSettings,
}

/// What an agent is for.
const AGENT: &str = "\
Keeps an identity and serves it to apps by the SPIFFE Workload API, where there is no sidecar.

Settings come from flags, over environment variables, over the YAML file, and are those of pillion-proxy for workload,
identity, workloadApi, federation, admin, readiness, metrics, tls and log.";

/// Headings of help whose settings an agent has.
const OF_AGENT: [&str; 4] = ["Workload", "Identity", "Own servers", "Logs"];

impl Arguments {
    /// The arguments of one of the programs that share the settings.
    ///
    /// # Errors
    /// What clap says, help included.
    pub(crate) fn parse(
        program: Program,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, clap::Error> {
        if program == Program::Proxy {
            return Self::try_parse_from(args);
        }
        let of_agent = |arg: &Arg| {
            arg.get_help_heading().is_none_or(|heading| OF_AGENT.contains(&heading))
                || arg.get_id() == "tls.minVersion"
        };
        let hidden = |arg: Arg| if of_agent(&arg) { arg } else { arg.hide(true) };
        let name = program.name();
        let command =
            Self::command().name(name).bin_name(name).about(AGENT).long_about(AGENT).mut_args(hidden);
        Self::from_arg_matches(&command.try_get_matches_from(args)?)
    }
}

const AFTER_HELP: &str = "\
Durations are a whole number and a unit of ms, s, m, h or d: 500ms, 24h.
RUST_LOG sets how much is logged: info, debug, or by module: warn,access=info.
Exit codes: 0 clean, 1 runtime failure, 2 wrong arguments or settings.";
