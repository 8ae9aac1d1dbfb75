//! Four small apps that know no mesh, to be put behind sidecars: they use nothing of pillion.
//!
//! * `frontend`: a web page that calls the backend, on a new connection each time, and shows what came back
//! * `backend`: answers with its name and the client that it saw, and on any path but `/` with what was asked
//! * `echo`: sends back what it gets until the client ends its direction, then ends its own
//! * `greeter`: speaks first, as mail and database servers do, then echoes
//!
//! Each prints `listening on ADDRESS` on stdout once it accepts, and stops on SIGTERM or SIGINT after the open
//! connections have finished, or after five seconds.

mod backend;
mod call;
mod echo;
mod frontend;
mod greeter;
mod http;
mod server;

use std::ffi::OsString;
use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;

/// The names that [`main_with`] knows.
pub const APPS: [&str; 4] = ["frontend", "backend", "echo", "greeter"];

/// Runs one app to its end. As in any argv, the first argument is the name of the program: one of [`APPS`].
///
/// Exit codes: 0 after a signal, 1 when it could not run (the address is taken), 2 for wrong arguments.
pub fn main_with<A: Into<OsString>>(args: impl IntoIterator<Item = A>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    match args.first().and_then(|name| name.to_str()) {
        Some("frontend") => start(&args, frontend::run),
        Some("backend") => start(&args, backend::run),
        Some("echo") => start(&args, echo::run),
        Some("greeter") => start(&args, greeter::run),
        other => {
            let seen = other.unwrap_or("nothing");
            eprintln!("expected the name of an app, one of {}; got {seen}", APPS.join(", "));
            ExitCode::from(2)
        }
    }
}

fn start<Options, Run>(args: &[OsString], run: fn(Options) -> Run) -> ExitCode
where
    Options: Parser,
    Run: Future<Output = anyhow::Result<()>>,
{
    let options = match Options::try_parse_from(args) {
        Ok(options) => options,
        Err(usage) => {
            // Nothing can be done where even the terminal is gone.
            let _ = usage.print();
            return if usage.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let ended = runtime.block_on(run(options));
            // A name that is still being looked up must not hold up the end.
            runtime.shutdown_background();
            ended
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The one option that all apps share.
#[derive(Debug, clap::Args)]
struct Listen {
    /// Address and port to accept on; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
}
