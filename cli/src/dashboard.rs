//! `pillion dashboard`: the web page for several sidecars. What it serves is `pillion_proxy::dashboard`.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use pillion_proxy::dashboard::{self, Proxy};

use crate::source::ADMIN;

/// The command's arguments.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The admin API of a sidecar that is shown; repeat it
    #[arg(long, value_name = "URL", default_value = ADMIN)]
    proxy: Vec<Proxy>,
    /// Where the page is served: an address of loopback
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15080")]
    listen: SocketAddr,
}

/// Exit codes: 0 stopped by SIGINT or SIGTERM, 1 it cannot listen, 2 wrong arguments.
pub(crate) fn run(options: &Options) -> ExitCode {
    let begun = |at| println!("the mesh is at http://{at}/ (Ctrl-C ends it)");
    let tell = |what: &str| eprintln!("pillion dashboard: {what}");
    match dashboard::run(options.listen, options.proxy.clone(), begun, tell) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            tell(&format!("--listen: {error}"));
            ExitCode::from(2)
        }
        Err(error) => {
            let cure = "is another dashboard running? --listen 127.0.0.1:0 takes any free port";
            tell(&format!("{} cannot be listened at: {error}; {cure}", options.listen));
            ExitCode::FAILURE
        }
    }
}
