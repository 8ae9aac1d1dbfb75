//! The certificate authority of the mesh: it identifies a workload by evidence, signs the public key of its CSR and
//! publishes the trust bundle.
//!
//! The life of a request: `server` accepts it and bounds it, `attest` turns its evidence into a SPIFFE ID, `csr`
//! takes the public key out of the request, `authority` signs with the current one of the `slots`, whose keys
//! `store` has on disk and `keeper` rotates. What a SPIFFE ID and a valid SVID are, and when roots rotate, is
//! `pillion_mesh`'s business.

mod attest;
mod authority;
mod bundle;
mod cli;
mod clock;
mod csr;
mod external;
mod fault;
mod files;
#[doc(hidden)]
pub mod fuzzing;
mod keeper;
mod keys;
mod metrics;
mod refusal;
mod server;
mod settings;
mod slots;
mod store;
#[cfg(test)]
mod testing;

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs `pillion-ca` with these arguments, the first being the name it was called by, until it is done or told to
/// stop by SIGTERM or SIGINT.
///
/// Exit codes: 0 clean, 1 failure while running, 2 wrong arguments or configuration.
#[must_use]
pub fn main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    cli::run(args)
}

/// The command line's definition, for completion scripts and manual pages.
#[must_use]
pub fn command() -> clap::Command {
    cli::command()
}
