//! `pillion top`: what passes through proxies just now, live in the terminal or once.
//!
//! What is shown is made by `pillion_mesh::top`; `terminal` shows it. Here the proxies are asked, and the keys are heard.

mod terminal;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use pillion_mesh::duration;
use pillion_mesh::top::{Look, Silent, Sort, Traffic, View};
use pillion_mesh::wire::rfc3339;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use crate::output::Format;
use crate::source::{ADMIN, Admin, Fault, percent_encoded};
use terminal::{Event, Screen, events};

/// What helps where a proxy does not answer.
const OTHERWISE: &str =
    "Others are named by --proxy URL, as often as needed; each tells of the connections of its own workload.";
/// Time for an answer of a proxy: what comes later is old.
const ANSWER: Duration = Duration::from_secs(5);
/// Answers that wait to be shown.
const QUEUE: usize = 16;

/// The command's arguments.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The admin API of a proxy that is asked; repeat it
    #[arg(long, value_name = "URL", default_value = ADMIN, alias = "admin")]
    proxy: Vec<String>,
    /// Between two readings; at least 100ms
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// What the edges are ordered by: new, bytes, open, refused or who
    #[arg(long, value_name = "ORDER", default_value_t)]
    sort: Sort,
    /// Tell once what came in one interval, and end; so it does where there is no terminal
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    format: Format,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text).map_err(|error| error.to_string())?;
    if interval < Duration::from_millis(100) {
        return Err("expected at least 100ms: a proxy has other things to do".to_owned());
    }
    Ok(interval)
}

/// Exit codes: 0 told, 1 a proxy does not answer (the others are told all the same; live, where none does at the begin), 128 + N
/// where signal N ended it, 2 wrong arguments.
pub(crate) fn run(options: &Options) -> ExitCode {
    let live =
        !options.once && options.format.is_table() && io::stdin().is_terminal() && io::stdout().is_terminal();
    let first = read_all(&options.proxy, &vec![None; options.proxy.len()]);
    if !first.iter().any(Result::is_ok) {
        return tell(first.into_iter().filter_map(Result::err));
    }
    if !live {
        return once(options, first);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tell([Fault::Proxy(format!("cannot show anything: {error}"))]),
    };
    let ended = runtime.block_on(watch(options, first));
    // Somebody may still be asked; nobody waits for that.
    runtime.shutdown_background();
    match ended {
        Ok(code) => code,
        Err(error) => {
            tell([Fault::Proxy(format!("cannot show anything on this terminal: {error}; try --once"))])
        }
    }
}

fn tell(faults: impl IntoIterator<Item = Fault>) -> ExitCode {
    faults.into_iter().fold(ExitCode::SUCCESS, |_, fault| fault.tell("pillion top"))
}

/// The second reading, one interval after the first, and what came between.
fn once(options: &Options, first: Vec<Result<Traffic, Fault>>) -> ExitCode {
    thread::sleep(options.interval);
    let before: Vec<Option<Traffic>> = first.into_iter().map(Result::ok).collect();
    let second = read_all(&options.proxy, &before);
    let silent = |fault: &Fault, proxy: &String| Silent { proxy: proxy.clone(), why: first_line(fault) };
    let told = second.iter().zip(&options.proxy);
    let silent = told.filter_map(|(read, proxy)| Some(silent(read.as_ref().err()?, proxy))).collect();
    // Who answers from now on only has no rates yet.
    let readings = second.iter().zip(&before).filter_map(|(after, before)| {
        let after = after.as_ref().ok()?;
        Some((before.as_ref().unwrap_or(after), after))
    });
    let view = View::between(readings, silent);
    options.format.print(&view, &view);
    tell(second.into_iter().filter_map(Result::err))
}

/// One reading of each proxy, all at once.
fn read_all(proxies: &[String], before: &[Option<Traffic>]) -> Vec<Result<Traffic, Fault>> {
    thread::scope(|scope| {
        let asked: Vec<_> = proxies
            .iter()
            .zip(before)
            .map(|(proxy, before)| scope.spawn(move || read(proxy, before.as_ref())))
            .collect();
        let gone = |_| Err(Fault::Proxy("the question failed".to_owned()));
        asked.into_iter().map(|asked| asked.join().unwrap_or_else(gone)).collect()
    })
}

/// A reading of one proxy, with what has ended since the last.
fn read(proxy: &str, before: Option<&Traffic>) -> Result<Traffic, Fault> {
    let since = before.map(|before| format!("?since={}", percent_encoded(&rfc3339::print(before.now))));
    let admin = Admin::at(proxy, OTHERWISE).answering_within(ANSWER);
    admin.get(&format!("/traffic{}", since.unwrap_or_default()))
}

fn first_line(fault: &Fault) -> String {
    fault.to_string().lines().next().unwrap_or_default().to_owned()
}

/// One proxy as it was read last.
struct Watched {
    proxy: String,
    before: Option<Arc<Traffic>>,
    after: Option<Arc<Traffic>>,
    fault: Option<String>,
}

impl Watched {
    fn take(&mut self, read: Result<Arc<Traffic>, String>) {
        match read {
            Ok(traffic) => {
                let last = self.after.replace(Arc::clone(&traffic));
                self.before = Some(last.unwrap_or(traffic));
                self.fault = None;
            }
            // Its rates are not known; when it answers again they begin anew.
            Err(why) => (self.before, self.after, self.fault) = (None, None, Some(why)),
        }
    }
}

/// What all of them say.
fn view(watched: &[Watched]) -> View {
    let silent =
        watched.iter().filter_map(|one| Some(Silent { proxy: one.proxy.clone(), why: one.fault.clone()? }));
    let readings = watched.iter().filter_map(|one| Some((one.before.as_deref()?, one.after.as_deref()?)));
    View::between(readings, silent.collect())
}

/// Shows the proxies until a key or a signal ends it.
async fn watch(options: &Options, first: Vec<Result<Traffic, Fault>>) -> io::Result<ExitCode> {
    let mut watched: Vec<Watched> = options
        .proxy
        .iter()
        .map(|proxy| Watched { proxy: proxy.clone(), before: None, after: None, fault: None })
        .collect();
    let (tell, mut told) = mpsc::channel(QUEUE);
    for (number, (one, read)) in watched.iter_mut().zip(first).enumerate() {
        one.take(read.map(Arc::new).map_err(|fault| first_line(&fault)));
        let (proxy, last) = (one.proxy.clone(), one.after.clone());
        tokio::spawn(ask(number, proxy, last, options.interval, tell.clone()));
    }
    let mut look =
        Look { width: 0, height: 0, sort: options.sort, paused: false, interval: options.interval };
    let mut events = events()?;
    let mut screen = Screen::enter()?;
    let mut shown = view(&watched);
    loop {
        (look.width, look.height) = screen.size();
        screen.draw(&shown.screen(&look))?;
        tokio::select! {
            Some((number, read)) = told.recv() => {
                if let Some(one) = watched.get_mut::<usize>(number) {
                    one.take(read);
                }
                if !look.paused {
                    shown = view(&watched);
                }
            }
            event = events.next() => match event {
                Event::Key('q' | '\u{3}') => return Ok(ExitCode::SUCCESS),
                Event::Key('p' | ' ') => {
                    look.paused = !look.paused;
                    shown = view(&watched);
                }
                // Ctrl-Z: the shell is back until it wakes us.
                Event::Key('\u{1a}') => screen = screen.suspend()?,
                Event::Key(key) => look.sort = Sort::of_key(key).unwrap_or(look.sort),
                Event::Resized => {}
                Event::Ended(signal) => return Ok(ExitCode::from(128 + signal)),
            },
        }
    }
}

/// Reads one proxy again and again, and tells what it says, until nobody listens.
async fn ask(
    number: usize,
    proxy: String,
    mut last: Option<Arc<Traffic>>,
    interval: Duration,
    tell: mpsc::Sender<(usize, Result<Arc<Traffic>, String>)>,
) {
    let mut next = Instant::now() + interval;
    loop {
        sleep_until(next).await;
        next = Instant::now() + interval;
        let (proxy, before) = (proxy.clone(), last.clone());
        let read = spawn_blocking(move || read(&proxy, before.as_deref())).await;
        let read = match read {
            Ok(read) => read.map(Arc::new).map_err(|fault| first_line(&fault)),
            Err(fault) => Err(fault.to_string()),
        };
        last = read.as_ref().ok().cloned();
        if tell.send((number, read)).await.is_err() {
            return;
        }
    }
}
