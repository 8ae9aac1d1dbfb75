//! The processes that the benchmark itself brings, by the hidden command `pillion bench-part`: the app, the load generator,
//! a TLS server without a proxy, and a plain relay as the floor for all proxies.
//!
//! Each is a process of its own, so that the kernel counts its processor time apart. None of them judges or prints for
//! people.

mod app;
mod drive;
pub(crate) mod job;
mod rate;
mod relay;
mod tally;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use job::{Door, Order, Outcome, Work};
use rustix::process::{Resource, getrlimit, setrlimit};
pub(crate) use tls::{client_config, server_config};

/// What the load generator prints when a run may begin.
pub(crate) const READY: &str = "ready";

/// What it prints when it holds all connections that it was told to hold, and when there has been traffic on each.
pub(crate) const HOLDING: &str = "holding";
pub(crate) const EXCHANGED: &str = "exchanged";

/// Which of them.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// What is called: echoes, swallows or sends bytes
    App {
        /// Where it listens
        #[arg(long)]
        listen: SocketAddr,
    },
    /// The load generator
    Drive {
        /// A JSON order
        order: String,
    },
    /// TLS servers without a proxy, one for each door
    Doors {
        /// A JSON list of doors
        doors: String,
    },
    /// Passes bytes on and knows nothing of them
    Relay {
        /// Where it listens
        #[arg(long)]
        listen: SocketAddr,
        /// Whom it dials
        #[arg(long)]
        to: SocketAddr,
        /// By splice(2), so that no byte comes up to the process
        #[arg(long)]
        splice: bool,
    },
}

/// Exit codes: 0 done, 1 it could not run, 2 wrong arguments.
pub(crate) fn run(options: &Options) -> ExitCode {
    raise_file_limit();
    match options.part {
        Part::App { listen } => on_all_cores(app::serve(listen)),
        Part::Relay { listen, to, splice: false } => on_all_cores(relay::copy(listen, to)),
        Part::Relay { listen, to, splice: true } => finish(relay::splice(listen, to)),
        Part::Doors { ref doors } => match serde_json::from_str::<Vec<Door>>(doors) {
            Ok(doors) => on_all_cores(tls::serve(doors)),
            Err(error) => wrong(&error),
        },
        Part::Drive { ref order } => match serde_json::from_str::<Order>(order) {
            Ok(order) => finish(drive(&order)),
            Err(error) => wrong(&error),
        },
    }
}

fn drive(order: &Order) -> anyhow::Result<()> {
    match order.work {
        Work::FixedRate { connections, size, rate } => rate::run(order, connections, size, rate),
        _ => drive::run(order),
    }
}

/// Says that all is open, and waits for the flag.
fn ready(order: &Order) {
    println!("{READY}");
    wait_for_flag(order, true);
}

/// Says what came of it, while all is still open, and waits until the flag is gone.
fn tell(order: &Order, outcome: &Outcome) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(outcome)?);
    wait_for_flag(order, false);
    Ok(())
}

/// At most for half a minute: whoever has started this may be gone.
fn wait_for_flag(order: &Order, there: bool) {
    let begun = Instant::now();
    while order.flag.exists() != there && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Files may be opened up to the hard limit, which root raises where it may; thousands of connections are held. Says how many.
pub(crate) fn raise_file_limit() -> u64 {
    const ENOUGH: u64 = 400_000;
    let mut limit = getrlimit(Resource::Nofile);
    let (soft, hard) = (limit.current, limit.maximum);
    (limit.current, limit.maximum) = (Some(ENOUGH), Some(ENOUGH));
    if hard.is_none_or(|hard| hard >= ENOUGH) {
        limit.maximum = hard;
    }
    if setrlimit(Resource::Nofile, limit).is_err() {
        (limit.current, limit.maximum) = (hard.or(soft), hard);
        // What then does not fit fails by name: too many open files.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    getrlimit(Resource::Nofile).current.unwrap_or(ENOUGH)
}

fn on_all_cores(work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    finish(runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(work)))
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pillion bench-part: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn wrong(error: &serde_json::Error) -> ExitCode {
    eprintln!("pillion bench-part: expected JSON as pillion bench writes it, got: {error}");
    ExitCode::from(2)
}
