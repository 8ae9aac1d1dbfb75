//! The command line of `pillion-proxy`.

use std::path::PathBuf;

use clap::Parser;

use super::RawSettings;

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

const AFTER_HELP: &str = "\
Durations are a whole number and a unit of ms, s, m, h or d: 500ms, 24h.
RUST_LOG sets how much is logged: info, debug, or by module: warn,access=info.
Exit codes: 0 clean, 1 runtime failure, 2 wrong arguments or settings.";
