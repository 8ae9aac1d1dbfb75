//! Listens in on TCP traffic of a network namespace, as anybody on the wire can: what is plaintext there and what is not.
//!
//! By a packet socket, which needs CAP_NET_RAW. [`Tap`] collects in the background; `pillion tap` shows
//! what it hears and can keep it for Wireshark.

mod packet;
mod pcap;
mod records;
mod streams;

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use socket2::{Domain, Protocol, Socket, Type};

use crate::lab;
pub use pillion_mesh::words::hex_lines;
pub use records::{Talk, talks};
use streams::Streams;

/// Every protocol, both directions of every interface (`ETH_P_ALL`).
const ALL_PROTOCOLS: u16 = 0x0003;

/// The largest packet that offloading hands over.
const LARGEST_PACKET: usize = 256 * 1024;

/// What the kernel may hold back while the tap is busy.
const KERNEL_BUFFER: usize = 8 * 1024 * 1024;

/// How soon a tap notices that it was dropped.
const TICK: Duration = Duration::from_millis(50);

/// A tap stops collecting when it holds this many bytes: it is for looking, not for storing.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// Bytes that were heard for the first time, of one packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// When.
    pub at: SystemTime,
    /// Who sent them.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// The bytes; never empty.
    pub payload: Vec<u8>,
}

impl Segment {
    /// Whether it went between a sidecar and its app: the sidecar speaks from 127.0.0.6 or `::6`, or one side is another
    /// loopback address.
    #[must_use]
    pub fn is_app_leg(&self) -> bool {
        const SIDECAR_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6));
        [self.from.ip(), self.to.ip()].iter().any(|ip| ip.is_loopback() || *ip == SIDECAR_V6)
    }
}

/// Collects in the background what is said in a network namespace, until it is dropped.
#[derive(Debug)]
pub struct Tap {
    heard: Arc<Mutex<Vec<Segment>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    /// Begins to listen in the namespace of the calling thread: to connections from or to one of `ports`, all if there are
    /// none. Whole packets go to `pcap` too.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or when the file cannot be made.
    pub fn start(ports: &[u16], pcap: Option<&Path>) -> io::Result<Self> {
        let mut source = Source::open(ports, pcap)?;
        let (heard, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (heard, stop) = (Arc::clone(&heard), Arc::clone(&stop));
            move || {
                let mut bytes = 0;
                while !stop.load(Ordering::Relaxed) && bytes < MOST_BYTES {
                    // A namespace that is taken down gives no error; any that comes ends the collection.
                    match source.next() {
                        Ok(Some(segment)) => {
                            bytes += segment.payload.len();
                            heard.lock().unwrap_or_else(PoisonError::into_inner).push(segment);
                        }
                        Ok(None) => {}
                        Err(_) => break,
                    }
                }
            }
        });
        Ok(Self { heard, stop, thread: Some(thread) })
    }

    /// What was heard so far, in order.
    #[must_use]
    pub fn segments(&self) -> Vec<Segment> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets what was heard so far.
    pub fn clear(&self) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It ends within a tick; that it panicked is no news here.
            let _ = thread.join();
        }
    }
}

/// All payload of the segments that `matches`, joined in the order in which it was heard.
#[must_use]
pub fn payload(segments: &[Segment], matches: impl Fn(&Segment) -> bool) -> Vec<u8> {
    segments
        .iter()
        .filter(|segment| matches(segment))
        .flat_map(|segment| segment.payload.iter().copied())
        .collect()
}

/// Whether `marker` stands anywhere in `bytes`.
#[must_use]
pub fn contains(bytes: &[u8], marker: &[u8]) -> bool {
    !marker.is_empty() && bytes.windows(marker.len()).any(|window| window == marker)
}

/// A packet socket and what it was told to look for.
struct Source {
    socket: Socket,
    ports: Vec<u16>,
    streams: Streams,
    pcap: Option<BufWriter<File>>,
    buffer: Vec<u8>,
}

impl Source {
    fn open(ports: &[u16], pcap: Option<&Path>) -> io::Result<Self> {
        let protocol = Protocol::from(i32::from(ALL_PROTOCOLS.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
        socket.set_recv_buffer_size(KERNEL_BUFFER)?;
        socket.set_read_timeout(Some(TICK))?;
        let pcap = match pcap {
            Some(path) => {
                let mut file = BufWriter::new(File::create(path)?);
                pcap::write_header(&mut file)?;
                Some(file)
            }
            None => None,
        };
        Ok(Self {
            socket,
            ports: ports.to_vec(),
            streams: Streams::default(),
            pcap,
            buffer: vec![0; LARGEST_PACKET],
        })
    }

    /// The next new bytes; `None` when there are none for a tick, or what came was nothing new.
    fn next(&mut self) -> io::Result<Option<Segment>> {
        let length = match self.socket.read(&mut self.buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return self.pcap.as_mut().map_or(Ok(()), Write::flush).map(|()| None);
            }
            Err(error) => return Err(error),
        };
        let bytes = self.buffer.get(..length).unwrap_or_default();
        let Some(packet) = packet::parse(bytes) else { return Ok(None) };
        let wanted = |port: u16| self.ports.is_empty() || self.ports.contains(&port);
        if !wanted(packet.from.port()) && !wanted(packet.to.port()) {
            return Ok(None);
        }
        let at = SystemTime::now();
        if let Some(file) = &mut self.pcap {
            pcap::write_packet(file, at, bytes)?;
        }
        let new = self.streams.new_bytes(&packet);
        Ok((!new.is_empty()).then(|| Segment { at, from: packet.from, to: packet.to, payload: new.to_vec() }))
    }
}

impl Source {
    /// Puts what is left into the file.
    fn finish(&mut self) -> io::Result<()> {
        self.pcap.as_mut().map_or(Ok(()), Write::flush)
    }
}

/// `pillion tap`: one paragraph for each piece of payload, until SIGINT.
pub(crate) fn run(ports: &[u16], out: Option<&Path>) -> ExitCode {
    match listen(ports, out) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output is gone.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pillion tap: {error} (a packet socket needs root or CAP_NET_RAW)");
            ExitCode::FAILURE
        }
    }
}

fn listen(ports: &[u16], out: Option<&Path>) -> io::Result<()> {
    lab::watch_signals().map_err(|error| io::Error::other(error.to_string()))?;
    let mut source = Source::open(ports, out)?;
    let mut stdout = io::stdout().lock();
    let mut last_look = None;
    loop {
        // What was said before the signal is still heard.
        let told = lab::check_interrupt().is_err();
        if told && last_look.get_or_insert_with(Instant::now).elapsed() >= 2 * TICK {
            return source.finish();
        }
        if let Some(segment) = source.next()? {
            writeln!(stdout, "{} > {}  {} bytes", segment.from, segment.to, segment.payload.len())?;
            for line in hex_lines(&segment.payload, 4) {
                writeln!(stdout, "    {line}")?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("127.0.0.6:40000", "10.83.0.3:8080", true)]
    #[case("10.83.0.3:8080", "127.0.0.6:40000", true)]
    #[case("[::6]:40000", "[fd00::3]:8080", true)]
    #[case("127.0.0.1:40000", "127.0.0.1:8080", true)]
    #[case("10.83.0.2:40000", "10.83.0.3:8080", false)]
    #[case("[fd00::2]:40000", "[fd00::3]:8080", false)]
    fn the_sidecars_own_address_marks_the_apps_leg(
        #[case] from: &str,
        #[case] to: &str,
        #[case] expected: bool,
    ) {
        let segment = Segment {
            at: SystemTime::UNIX_EPOCH,
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            payload: vec![0],
        };
        assert_eq!(segment.is_app_leg(), expected);
    }

    #[test]
    fn a_marker_is_found_anywhere_but_not_where_it_is_not() {
        assert!(contains(b"abcdef", b"cd"));
        assert!(contains(b"cd", b"cd"));
        assert!(!contains(b"abc", b"cd"));
        assert!(!contains(b"abc", b""));
    }

    #[test]
    fn bytes_are_shown_in_hexadecimal_and_as_text() {
        let lines = hex_lines(b"GET / HTTP/1.1\r\nHost: backend\r\n", 9);
        assert_eq!(lines[0], "47 45 54 20 2f 20 48 54 54 50 2f 31 2e 31 0d 0a  GET / HTTP/1.1..");
        assert_eq!(lines.len(), 2);
        assert_eq!(hex_lines(&[0x17, 3, 3], 1), [format!("{:<47}  ...", "17 03 03")]);
    }
}
