//! The load generator at a fixed rate. Each message is due at a time that was fixed before; its latency begins there, also
//! where it could not be sent yet because the answer before was late. A stall is thus seen by all messages that it delays
//! (without that, the one that met it would hide the others: coordinated omission).
//!
//! One thread for each connection, which sleeps until the next message is due: a timer of the kernel wakes it, whose
//! lateness is noted apart.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::app::ECHO;
use super::job::{Order, Outcome};
use super::tally::Tally;

/// The longest that an answer may take.
const TOO_LONG: Duration = Duration::from_secs(20);

/// Runs the order to its end.
pub(super) fn run(order: &Order, connections: usize, size: usize, rate: u32) -> anyhow::Result<()> {
    let streams = (0..connections).map(|_| open(order.target)).collect::<io::Result<Vec<_>>>()?;
    super::ready(order);
    let outcome = at_rate(order, &streams, size, rate)?;
    super::tell(order, &outcome)
}

fn at_rate(order: &Order, streams: &[TcpStream], size: usize, rate: u32) -> anyhow::Result<Outcome> {
    let connections = streams.len();
    anyhow::ensure!(connections > 0 && rate > 0, "expected connections and a rate, got none");
    let tally = Tally::new(order);
    let (begun, pause) = (Instant::now(), pause(connections, rate));
    thread::scope(|scope| {
        for (number, stream) in (0_u32..).zip(streams) {
            let tally = &tally;
            // Spread over the pause, so that not all are due at once.
            let first = begun + pause.mul_f64(f64::from(number) / share(connections));
            scope.spawn(move || trips(stream, size, first, pause, tally));
        }
    });
    Ok(tally.finish(connections))
}

/// Between two messages of one connection.
fn pause(connections: usize, rate: u32) -> Duration {
    Duration::from_secs_f64(share(connections) / f64::from(rate))
}

fn share(connections: usize) -> f64 {
    u32::try_from(connections).map_or(f64::from(u32::MAX), f64::from)
}

fn open(target: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(target)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TOO_LONG))?;
    stream.set_write_timeout(Some(TOO_LONG))?;
    stream.write_all(&[ECHO])?;
    stream.read_exact(&mut [0_u8; 1])?;
    Ok(stream)
}

fn trips(mut stream: &TcpStream, size: usize, first: Instant, pause: Duration, tally: &Tally) {
    let (message, mut answer) = (vec![ECHO; size], vec![0_u8; size]);
    let mut due = first;
    while due < tally.end() && tally.goes_on() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let late = due.elapsed();
        match stream.write_all(&message).and_then(|()| stream.read_exact(&mut answer)) {
            Ok(()) => tally.done(due, &[("whole", due.elapsed()), ("late", late)]),
            Err(error) => return tally.failed(&error),
        }
        due += pause;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::job::Work;
    use super::*;

    #[test]
    fn connections_share_the_rate() {
        assert_eq!(pause(32, 1_000), Duration::from_millis(32));
        assert_eq!(pause(1, 1), Duration::from_secs(1));
    }

    /// An app that stalls once: messages that were due meanwhile have waited too.
    #[test]
    fn a_stall_is_seen_by_all_messages_that_were_due_in_it() {
        const STALL: Duration = Duration::from_millis(200);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let app = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut buffer, mut count) = ([0_u8; 1], 0);
            while stream.read_exact(&mut buffer).is_ok() {
                count += 1;
                if count == 20 {
                    thread::sleep(STALL);
                }
                stream.write_all(&buffer).unwrap();
            }
        });
        let work = Work::FixedRate { connections: 1, size: 1, rate: 100 };
        let order = Order { target, measure_ms: 500, warm_up_ms: 0, work, flag: "/".into() };
        let streams = [TcpStream::connect(target).unwrap()];
        let outcome = at_rate(&order, &streams, 1, 100).unwrap();
        drop(streams);
        app.join().unwrap();
        let delayed: u64 = outcome.latencies["whole"]
            .iter()
            .filter(|(latency, _)| *latency >= 50_000_000)
            .map(|(_, count)| count)
            .sum();
        // One every 10 ms: some fifteen waited for 50 ms or more, of which one alone met the stall itself.
        assert!(delayed >= 10, "{:?}", outcome.latencies["whole"]);
    }
}
