//! Clients that call without a pause, each on a new connection, and clients that hold one connection and go on talking.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pillion_cli::lab::{Node, wait_until};

use super::http::ask_over;
use super::{ECONNRESET, SOON, exchange};

/// Between two calls of one client, so that a load is a load and not a benchmark.
const PACE: Duration = Duration::from_millis(15);

/// How long a client waits for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a client calls a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Anything but a whole answer.
    Answer,
    /// Anything but a whole answer, or a refusal that cannot be taken for an end: `ECONNRESET` or `ECONNREFUSED`.
    AnswerOrRefusal,
}

/// Running clients of an echo service. Dropped without [`Load::finish`] they stop unasked.
pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answers: AtomicU64,
    refusals: AtomicU64,
    exchanges: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// What the clients saw.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Calls that got their whole answer.
    pub(crate) answers: u64,
    /// Calls that were refused, where that is expected.
    pub(crate) refusals: u64,
    /// Questions on held connections that got their answer.
    pub(crate) exchanges: u64,
    /// What else came of calls and held connections.
    pub(crate) failures: Vec<String>,
}

impl Load {
    /// No client yet.
    pub(crate) fn new() -> Self {
        Self { shared: Arc::default(), threads: Vec::new() }
    }

    /// The load of a mesh client: four that call, four that hold a connection.
    pub(crate) fn of_a_mesh_client(from: &Node, address: SocketAddr) -> Self {
        let mut load = Self::new();
        load.callers(from, address, 4, Expect::Answer);
        load.holders(from, address, 4);
        load
    }

    /// Adds clients that make one connection after the other.
    pub(crate) fn callers(&mut self, from: &Node, address: SocketAddr, count: usize, expect: Expect) {
        for number in 0..count {
            self.spawn(from, move |shared| {
                let mut call: u64 = 0;
                while !shared.stop.load(Ordering::Relaxed) {
                    call += 1;
                    // Of another length and content each time: nobody else's answer will do.
                    let question =
                        format!("{number}/{call} ").repeat(1 + usize::try_from(call % 400).unwrap());
                    shared.judge(expect, call_once(address, question.as_bytes()), || format!("call {call}"));
                    thread::sleep(PACE);
                }
            });
        }
    }

    /// Adds clients that keep their connection and ask on it again and again. All are connected when this returns.
    pub(crate) fn holders(&mut self, from: &Node, address: SocketAddr, count: usize) {
        let streams: Vec<TcpStream> = (0..count).map(|_| from.dial(address).unwrap()).collect();
        for stream in streams {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            self.spawn(from, move |shared| hold(&stream, shared));
        }
        let before = self.shared.exchanges.load(Ordering::Relaxed);
        self.wait("the first answer on each held connection", |seen| seen.exchanges >= before + count as u64);
    }

    /// Adds clients of an HTTP app, half of which keep their connection. Each answer must have the status `due`.
    pub(crate) fn http(&mut self, from: &Node, address: SocketAddr, count: usize, due: u16) {
        for number in 0..count {
            let keeps = number % 2 == 0;
            self.spawn(from, move |shared| {
                let mut kept = None;
                while !shared.stop.load(Ordering::Relaxed) {
                    let answer = connected(kept.take(), address).and_then(|mut stream| {
                        let answer = ask_over(&mut stream, "GET", "/orders", "server")?;
                        kept = Some(stream).filter(|_| keeps);
                        Ok(answer.status)
                    });
                    match answer {
                        Ok(status) if status == due => {
                            (if keeps { &shared.exchanges } else { &shared.answers })
                                .fetch_add(1, Ordering::Relaxed);
                        }
                        other => {
                            return shared.fail(format!("client {number}: {due} is due, seen {other:?}"));
                        }
                    }
                    thread::sleep(PACE);
                }
            });
        }
    }

    fn spawn(&mut self, from: &Node, work: impl FnOnce(&Shared) + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        // A thread is in the network namespace of the one that starts it.
        self.threads.push(from.enter(|| thread::spawn(move || work(&shared))).unwrap());
    }

    /// What was seen so far.
    pub(crate) fn seen(&self) -> Seen {
        Seen {
            answers: self.shared.answers.load(Ordering::Relaxed),
            refusals: self.shared.refusals.load(Ordering::Relaxed),
            exchanges: self.shared.exchanges.load(Ordering::Relaxed),
            failures: self.shared.failures.lock().unwrap().clone(),
        }
    }

    /// Waits until the clients have seen something, or one has failed.
    pub(crate) fn wait(&self, what: &str, condition: impl Fn(&Seen) -> bool) {
        wait_until(SOON, what, || {
            let seen = self.seen();
            Ok((condition(&seen) || !seen.failures.is_empty()).then_some(()))
        })
        .unwrap();
    }

    /// Waits for this many more answers, so that what was just done is under load for a while.
    pub(crate) fn wait_for_answers(&self, more: u64) {
        let before = self.seen().answers;
        self.wait(&format!("{more} more answers"), |seen| seen.answers >= before + more);
    }

    /// Ends all clients in order: a call is finished, a held connection is ended and must end cleanly.
    pub(crate) fn finish(mut self) -> Seen {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        self.seen()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn judge(&self, expect: Expect, outcome: Outcome, what: impl FnOnce() -> String) {
        match outcome {
            Outcome::Answer => {
                self.answers.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Refusal(_) if expect == Expect::AnswerOrRefusal => {
                self.refusals.fetch_add(1, Ordering::Relaxed);
            }
            failure => self.fail(format!("{}: {failure}", what())),
        }
    }

    fn fail(&self, failure: String) {
        self.failures.lock().unwrap().push(failure);
    }
}

/// What came of one call.
enum Outcome {
    /// All that was sent came back, and a clean end.
    Answer,
    /// The connection could not be made, or was reset.
    Refusal(io::Error),
    /// A clean end that was too early, a wrong answer, silence.
    Broken(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Answer => f.write_str("a whole answer"),
            Outcome::Refusal(error) => write!(f, "{error}"),
            Outcome::Broken(what) => f.write_str(what),
        }
    }
}

/// The connection that was kept, or a new one.
fn connected(kept: Option<TcpStream>, address: SocketAddr) -> io::Result<TcpStream> {
    if let Some(stream) = kept {
        return Ok(stream);
    }
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn call_once(address: SocketAddr, question: &[u8]) -> Outcome {
    const ECONNREFUSED: i32 = 111;
    let called = TcpStream::connect_timeout(&address, PATIENCE).and_then(|stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        exchange(&stream, question)
    });
    match called {
        Ok(answer) if answer == question => Outcome::Answer,
        Ok(answer) => {
            Outcome::Broken(format!("a clean end after {} of {} bytes", answer.len(), question.len()))
        }
        Err(error) if matches!(error.raw_os_error(), Some(ECONNRESET | ECONNREFUSED)) => {
            Outcome::Refusal(error)
        }
        Err(error) => Outcome::Broken(error.to_string()),
    }
}

fn hold(mut stream: &TcpStream, shared: &Shared) {
    let mut asked: u64 = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        asked += 1;
        let question = format!("{asked:0100}");
        let mut answer = vec![0; question.len()];
        let exchanged = stream.write_all(question.as_bytes()).and_then(|()| stream.read_exact(&mut answer));
        match exchanged {
            Ok(()) if answer == question.as_bytes() => shared.exchanges.fetch_add(1, Ordering::Relaxed),
            Ok(()) => return shared.fail(format!("held connection, question {asked}: a wrong answer")),
            Err(error) => return shared.fail(format!("held connection, question {asked}: {error}")),
        };
        thread::sleep(PACE);
    }
    let mut rest = Vec::new();
    match stream.shutdown(Shutdown::Write).and_then(|()| stream.read_to_end(&mut rest)) {
        Ok(0) => {}
        Ok(more) => shared.fail(format!("held connection: {more} bytes that nobody asked for")),
        Err(error) => shared.fail(format!("held connection, its end: {error}")),
    }
}
