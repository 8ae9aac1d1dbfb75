//! What the load generator is told and what it tells: JSON on its command line, JSON on its stdout.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One run of the load generator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Where the app is called.
    pub(crate) target: SocketAddr,
    /// How long latencies are noted, in milliseconds, after `warm_up_ms`.
    pub(crate) measure_ms: u64,
    /// How long it runs before latencies are noted, in milliseconds.
    pub(crate) warm_up_ms: u64,
    /// What it does.
    pub(crate) work: Work,
    /// The run begins when this file is there, and connections stay open after it until it is gone, so that neither opening nor
    /// closing them is counted.
    pub(crate) flag: PathBuf,
}

/// What a load generator can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Connect, send one byte, have it back, close: again and again, `workers` at once. By TLS, or in plaintext.
    Connect {
        /// How many at once.
        workers: usize,
        /// TLS of the load generator's own.
        tls: Option<Tls>,
    },
    /// A message and its echo on each of `connections`, one after the other, as fast as it goes.
    RoundTrip {
        /// How many connections, all open for the whole run.
        connections: usize,
        /// Bytes of a message.
        size: usize,
    },
    /// The same at a fixed rate. A latency begins when the message was due, not when it could be sent.
    FixedRate {
        /// How many connections share the rate.
        connections: usize,
        /// Bytes of a message.
        size: usize,
        /// Messages a second, of all connections together.
        rate: u32,
    },
    /// As many bytes as it goes, towards the app or from it.
    Bulk {
        /// How many connections.
        connections: usize,
        /// From the app to the client instead of to it.
        from_app: bool,
    },
    /// Opens connections, has one byte echoed on each and says so; when the flag is there, has `traffic` bytes echoed on each
    /// and says so; holds them until it is killed.
    Hold {
        /// How many.
        connections: usize,
        /// Bytes.
        traffic: usize,
    },
}

/// How the load generator speaks TLS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tls {
    /// Version, key exchange.
    pub(crate) shape: Shape,
    /// Whether the client shows a certificate, and whether it resumes sessions.
    pub(crate) mutual: bool,
    /// Resumes sessions; without, each handshake is a full one.
    pub(crate) resumed: bool,
    /// The client's files.
    pub(crate) files: Files,
}

/// What a handshake is made of, apart from the certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// TLS 1.2, with an ephemeral key exchange and AES-128-GCM; else TLS 1.3 with AES-128-GCM.
    pub(crate) tls12: bool,
    /// X25519MLKEM768; else X25519.
    pub(crate) post_quantum: bool,
}

impl Shape {
    /// What comparisons are made with.
    pub(crate) const USUAL: Self = Self { tls12: false, post_quantum: false };
}

/// Where one side's certificate, key and the root of the other are, all PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Files {
    /// Leaf first.
    pub(crate) certificate: PathBuf,
    /// PKCS#8.
    pub(crate) key: PathBuf,
    /// The root.
    pub(crate) bundle: PathBuf,
}

/// What the load generator's own TLS server offers on one port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Door {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// How it speaks TLS; without, it speaks plaintext.
    pub(crate) tls: Option<ServerTls>,
}

/// TLS of a [`Door`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServerTls {
    /// Version, key exchange.
    pub(crate) shape: Shape,
    /// Whether clients must show a certificate.
    pub(crate) mutual: bool,
    /// The server's files.
    pub(crate) files: Files,
}

/// What came of an [`Order`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Operations from start to end, warm-up included: what processor time is divided by.
    pub(crate) operations: u64,
    /// From start to end.
    pub(crate) seconds: f64,
    /// Operations whose latency was noted, after the warm-up.
    pub(crate) measured: u64,
    /// How long latencies were noted.
    pub(crate) measured_seconds: f64,
    /// Operations that failed.
    pub(crate) failures: u64,
    /// The first failure's text.
    pub(crate) failure: Option<String>,
    /// Handshakes that resumed a session.
    pub(crate) resumed: u64,
    /// Bytes moved by [`Work::Bulk`]; else bytes on the wire, both ways, of all operations (TLS records or plaintext,
    /// without TCP and IP).
    pub(crate) sent: u64,
    /// The same towards the client.
    pub(crate) received: u64,
    /// Processor time of the load generator, in nanoseconds.
    pub(crate) own_cpu: u64,
    /// Threads that the load generator worked with.
    pub(crate) threads: usize,
    /// By step (`connect`, `handshake`, `echo`, `whole`, `late`): nanoseconds and how often.
    pub(crate) latencies: BTreeMap<String, Vec<(u64, u64)>>,
}

impl Order {
    /// The part whose latencies count.
    pub(crate) fn measured_time(&self) -> Duration {
        Duration::from_millis(self.measure_ms)
    }

    /// The part before it.
    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_millis(self.warm_up_ms)
    }
}
