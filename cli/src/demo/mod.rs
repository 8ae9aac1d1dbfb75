//! `pillion demo`: builds a mesh of real processes, walks through what mutual TLS by sidecars means, and says at each step
//! what is expected and what was seen.
//!
//! [`stage`] builds the mesh, [`story`] and [`certificates`] are walks, [`page`] is the look of them. How meshes are built
//! in general is [`crate::lab`]'s.

mod certificates;
mod page;
mod relay;
mod stage;
mod story;
mod traffic;
mod walk;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use crate::lab::{self, LabError, USER_NAMESPACE_FLAG, Way, watch_signals};
use certificates::Hurry;
use page::Page;
use stage::Stage;

/// As a shell reports a process that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// How to run the demo.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What to show
    #[arg(value_enum, default_value_t = Story::Mesh)]
    story: Story,
    /// Leave the mesh running afterwards, and say how to play with it
    #[arg(long)]
    keep: bool,
    /// No colours; also by the variable NO_COLOR
    #[arg(long)]
    no_color: bool,
    /// How to build the mesh
    #[arg(long, value_enum, default_value_t = WishedWay::Auto)]
    way: WishedWay,
    /// This process is root of its own user namespace
    #[arg(long, hide = true)]
    inside_user_namespace: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Story {
    /// Mutual TLS by sidecars, on the wire and beside the apps, and what PERMISSIVE, STRICT and DISABLE do
    Mesh,
    /// Renewal, a CA that is away, a crash of it and a change of roots under traffic, in hurried time
    Certificates,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WishedWay {
    /// The first of the others that works here
    Auto,
    /// Network namespaces, as root
    Root,
    /// Network namespaces in a user namespace of one's own, without root
    UserNamespace,
    /// No namespaces: sidecars with explicit listeners on 127.0.0.1
    Loopback,
}

/// Exit code 0 when all was as expected, 1 when something differed or failed, 130 after SIGINT, SIGTERM or SIGHUP.
pub(crate) fn run(options: &Options) -> ExitCode {
    let page = Page::new(!options.no_color);
    let told = own_executable().and_then(|executable| {
        watch_signals()?;
        let (way, why_not) = choose_way(options, &executable)?;
        tell(options, &page, way, &why_not, &executable)
    });
    match told {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(LabError::Interrupted) => {
            page.note("\nStopped. Everything was taken down.");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("pillion demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all was as expected. When this returns, everything has been taken down.
fn tell(
    options: &Options,
    page: &Page,
    way: Way,
    why_not: &[String],
    executable: &Path,
) -> Result<bool, LabError> {
    let started = Instant::now();
    page.opening(way, why_not);
    let hurry = (options.story == Story::Certificates).then(Hurry::now);
    let mut stage = Stage::build(way, executable, hurry.as_ref())?;
    page.picture(&stage);
    let (met, steps) = match options.story {
        Story::Mesh => story::tell(page, &stage)?,
        Story::Certificates => certificates::tell(page, &mut stage)?,
    };
    page.summary(met, steps, started.elapsed(), options.keep);
    if options.keep {
        let published = stage.publish()?;
        stage.prepare_policy()?;
        page.playground(&stage, published.address());
        // Not an interruption of the story: its end.
        while lab::check_interrupt().is_ok() {
            thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(met == steps)
}

/// The way to go, and for each better one why it cannot be gone. Does not return when the way leads through a user
/// namespace that is yet to be made.
fn choose_way(options: &Options, executable: &Path) -> Result<(Way, Vec<String>), LabError> {
    let mut why_not = Vec::new();
    if options.way != WishedWay::Loopback {
        match Way::here() {
            Ok(way) if options.way.allows(way) => return Ok((way, why_not)),
            Ok(way) => why_not.push(format!("possible is: {way}")),
            Err(error) => why_not.push(why(error)),
        }
    }
    if options.way.allows(Way::UserNamespace) && !options.inside_user_namespace {
        why_not.push(match lab::check_user_namespace(executable, &["check-lab"]) {
            Ok(()) => {
                let args: Vec<_> = std::env::args_os().skip(1).chain([USER_NAMESPACE_FLAG.into()]).collect();
                lab::enter_user_namespace(executable, &args).to_string()
            }
            Err(error) => format!("in a user namespace: {}", why(error)),
        });
    }
    if options.way.allows(Way::Loopback) {
        return Ok((Way::Loopback, why_not));
    }
    Err(LabError::Impossible(why_not.join("; ")))
}

/// What is impossible, without saying once more that it is.
fn why(error: LabError) -> String {
    match error {
        LabError::Impossible(why) => why,
        error => error.to_string(),
    }
}

impl WishedWay {
    fn allows(self, way: Way) -> bool {
        match self {
            WishedWay::Auto => true,
            WishedWay::Root => way == Way::Root,
            WishedWay::UserNamespace => way == Way::UserNamespace,
            WishedWay::Loopback => way == Way::Loopback,
        }
    }
}

fn own_executable() -> Result<PathBuf, LabError> {
    std::env::current_exe().map_err(LabError::io("find the own executable"))
}
