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
    /// The socket under all layers.
    fn tcp(&self) -> &TcpStream;

    /// How an end of its direction is told: TLS has one of its own, and takes no other for one.
    fn ends_by(&self) -> How {
        How::Fin
    }

    /// From now on closing the socket sends a reset. The default of every connection: only one that ended cleanly
    /// may end with a FIN, so that nobody takes a cut stream for a whole one.
    fn close_by_reset(&self) {
        set_linger(self.tcp(), Some(Duration::ZERO));
    }

    /// From now on closing the socket sends what is buffered and then a FIN.
    fn close_cleanly(&self) {
        set_linger(self.tcp(), None);
    }
}

fn set_linger(stream: &TcpStream, linger: Option<Duration>) {
    // Fails only on a socket that is closed already.
    let _ = SockRef::from(stream).set_linger(linger);
}

impl Leg for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl<S: Leg> Leg for Rewound<S> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().tcp()
    }

    fn ends_by(&self) -> How {
        self.get_ref().ends_by()
    }
}

impl<S: Leg> Leg for tokio_rustls::server::TlsStream<S> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0.tcp()
    }

    fn ends_by(&self) -> How {
        How::CloseNotify
    }
}

impl<S: Leg> Leg for tokio_rustls::client::TlsStream<S> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0.tcp()
    }

    fn ends_by(&self) -> How {
        How::CloseNotify
    }
}
