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
mod splice;
pub(crate) mod tap;

use std::io;
use std::time::Duration;

use pillion_mesh::wire::How;
use socket2::SockRef;
use tokio::io::DuplexStream;
use tokio::net::TcpStream;

use crate::tunnel::Ending;
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

/// What lies under all layers of a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ground<'a> {
    /// A socket.
    Tcp(&'a TcpStream),
    /// A place in a tunnel.
    Tunnel(&'a Ending),
    /// None: a pipe in memory.
    Memory,
}

/// A stream that ends in a TCP socket of ours or in a place in a tunnel, however many layers lie over it.
pub(crate) trait Leg {
    /// What lies under all layers.
    fn ground(&self) -> Ground<'_>;

    /// The socket, where there is nothing over it: its bytes need not pass through us.
    fn bare(&self) -> Option<&TcpStream> {
        None
    }

    /// How an end of its direction is told: TLS has one of its own, and takes no other for one.
    fn ends_by(&self) -> How {
        How::Fin
    }

    /// Tells a client that waits for it that it is let in: one that came in a tunnel does.
    fn let_in(&mut self) {}

    /// From now on closing the socket sends what is buffered and then a FIN. From the beginning it sends a reset: only a
    /// connection that ended in order may end with a FIN, so that nobody takes a cut stream for a whole one.
    fn close_cleanly(&self) {
        match self.ground() {
            // Fails only on a socket that is closed already.
            Ground::Tcp(socket) => _ = SockRef::from(socket).set_linger(None),
            Ground::Tunnel(ending) => ending.set_clean(),
            Ground::Memory => {}
        }
    }
}

impl Leg for TcpStream {
    fn ground(&self) -> Ground<'_> {
        Ground::Tcp(self)
    }

    fn bare(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Leg for DuplexStream {
    fn ground(&self) -> Ground<'_> {
        Ground::Memory
    }
}

impl<S: Leg> Leg for Rewound<S> {
    fn ground(&self) -> Ground<'_> {
        self.get_ref().ground()
    }

    fn bare(&self) -> Option<&TcpStream> {
        if self.is_rewound() { None } else { self.get_ref().bare() }
    }

    fn ends_by(&self) -> How {
        self.get_ref().ends_by()
    }
}
