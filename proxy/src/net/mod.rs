//! Sockets and bytes: where a connection was going, how another is dialled, the first bytes, the relay.
//!
//! Knows nothing of policies.

pub(crate) mod capture;
pub(crate) mod dial;
pub(crate) mod moved;
pub(crate) mod original_dst;
pub(crate) mod relay;
pub(crate) mod rewind;
pub(crate) mod sniff;
pub(crate) mod tap;

use std::io;
use std::time::Duration;

use pillion_mesh::wire::How;
use socket2::SockRef;
use tokio::io::DuplexStream;
use tokio::net::TcpStream;

use rewind::Rewound;

/// TCP keepalive of every connection, so that a peer that vanished is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keepalive {
    /// Idle time before the first probe.
    pub(crate) time: Duration,
    /// Time between probes.
    pub(crate) interval: Duration,
    /// Unanswered probes before the connection is reset.
    pub(crate) retries: u32,
}

impl Keepalive {
    pub(crate) fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_keepalive(
            &socket2::TcpKeepalive::new()
                .with_time(self.time)
                .with_interval(self.interval)
                .with_retries(self.retries),
        )
    }
}

/// A stream that ends in a TCP socket of ours, however many layers lie over it.
pub(crate) trait Leg {
    /// The socket under all layers; none in memory.
    fn tcp(&self) -> Option<&TcpStream>;

    /// How an end of its direction is told: TLS has one of its own, and takes no other for one.
    fn ends_by(&self) -> How {
        How::Fin
    }

    /// From now on closing the socket sends what is buffered and then a FIN. From the beginning it sends a reset: only a
    /// connection that ended in order may end with a FIN, so that nobody takes a cut stream for a whole one.
    fn close_cleanly(&self) {
        if let Some(stream) = self.tcp() {
            // Fails only on a socket that is closed already.
            let _ = SockRef::from(stream).set_linger(None);
        }
    }
}

impl Leg for TcpStream {
    fn tcp(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Leg for DuplexStream {
    fn tcp(&self) -> Option<&TcpStream> {
        None
    }
}

impl<S: Leg> Leg for Rewound<S> {
    fn tcp(&self) -> Option<&TcpStream> {
        self.get_ref().tcp()
    }

    fn ends_by(&self) -> How {
        self.get_ref().ends_by()
    }
}
