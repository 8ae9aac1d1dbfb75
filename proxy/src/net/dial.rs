//! Dials a TCP connection that stays out of our own interception.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Keepalive;

/// How to dial.
#[derive(Debug, Clone)]
pub(crate) struct DialOptions {
    /// Source address; `127.0.0.6` (`::6`) towards the app, so that the rules let the connection pass.
    pub(crate) source: Option<IpAddr>,
    /// Whether `source` is not an address of this host (TPROXY keeps the client's); needs `CAP_NET_ADMIN`.
    pub(crate) transparent: bool,
    /// `SO_MARK`, by which rules may know the proxy's own packets; needs `CAP_NET_ADMIN`.
    pub(crate) mark: Option<u32>,
    /// TCP keepalive.
    pub(crate) keepalive: Keepalive,
    /// How long the connection may take.
    pub(crate) timeout: Duration,
}

/// Local addresses of the connections that this proxy has dialled: one of them that shows up as a client of our
/// outbound capture is a loop.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnDials(Arc<Dials>);

#[derive(Debug, Default)]
struct Dials {
    local: Mutex<HashSet<SocketAddr>>,
    /// Held, by many at once, from before the first packet of a connection until its address stands in `local`: the kernel
    /// may hand the connection back to us sooner.
    beginning: RwLock<()>,
}

impl OwnDials {
    /// Whether the client is one of our own connections. Waits for those that are being begun.
    pub(crate) fn contains(&self, client: SocketAddr) -> bool {
        drop(self.0.beginning.write().unwrap_or_else(PoisonError::into_inner));
        self.local().contains(&client)
    }

    /// Begins a connection, which is known from its first packet on.
    fn begin(&self, address: SocketAddr, options: &DialOptions) -> io::Result<(Begun, OwnDial)> {
        let _beginning = self.0.beginning.read().unwrap_or_else(PoisonError::into_inner);
        let begun = begin(address, options)?;
        let local = begun.stream.local_addr()?;
        self.local().insert(local);
        Ok((begun, OwnDial { dials: self.clone(), local }))
    }

    fn local(&self) -> MutexGuard<'_, HashSet<SocketAddr>> {
        self.0.local.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that we have dialled. The dial is forgotten before the socket is closed (fields are dropped in this order): an app
/// may be given the port again at once, and is no loop.
#[derive(Debug)]
pub(crate) struct Dialled<S> {
    /// None for a place in a tunnel.
    pub(crate) own: Option<OwnDial>,
    pub(crate) stream: S,
}

/// Keeps a dialled connection's address in [`OwnDials`] until it is dropped.
#[derive(Debug)]
pub(crate) struct OwnDial {
    dials: OwnDials,
    local: SocketAddr,
}

impl OwnDial {
    /// The address that was dialled from.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for OwnDial {
    fn drop(&mut self) {
        self.dials.local().remove(&self.local);
    }
}

/// Connects. The socket closes by reset until told otherwise.
///
/// # Errors
/// `TimedOut` after `options.timeout`; else what the kernel says, with the setting that caused it where it is ours.
pub(crate) async fn connect(address: SocketAddr, options: &DialOptions) -> io::Result<TcpStream> {
    finish(begin(address, options)?, options.timeout).await
}

/// Connects and remembers the connection's local address from before its first packet can come back.
///
/// # Errors
/// Those of [`connect`].
pub(crate) async fn connect_remembered(
    address: SocketAddr,
    options: &DialOptions,
    dials: &OwnDials,
) -> io::Result<(TcpStream, OwnDial)> {
    let (begun, own) = dials.begin(address, options)?;
    Ok((finish(begun, options.timeout).await?, own))
}

/// A connection of which the first packet is sent.
struct Begun {
    stream: TcpStream,
    /// Whether the other side has taken it already.
    stands: bool,
}

fn begin(address: SocketAddr, options: &DialOptions) -> io::Result<Begun> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_linger(Some(Duration::ZERO))?; // closes by reset
    socket.set_tcp_nodelay(true)?;
    // The other side of a connection within this host cannot vanish unseen; from loopback there is no way out of it.
    let within_host = address.ip().is_loopback() || options.source.is_some_and(|source| source.is_loopback());
    if !within_host {
        options.keepalive.apply(&SockRef::from(&socket))?;
    }
    if let Some(mark) = options.mark {
        socket
            .set_mark(mark)
            .map_err(|e| because(&e, &format!("setting SO_MARK {mark} needs CAP_NET_ADMIN")))?;
    }
    if let Some(source) = options.source {
        if options.transparent {
            let set = if source.is_ipv4() {
                socket.set_ip_transparent_v4(true)
            } else {
                socket.set_ip_transparent_v6(true)
            };
            set.map_err(|e| because(&e, "keeping the client's address (TPROXY) needs CAP_NET_ADMIN"))?;
        }
        socket.bind(&SocketAddr::new(source, 0).into()).map_err(|e| {
            because(
                &e,
                &format!("source address {source} cannot be used; pillion-iptables apply adds ::6 to lo"),
            )
        })?;
    }
    // Of a neighbour in the same kernel the answer is there before the call returns; asking again says so.
    let stands = connects(&socket, address)? || connects(&socket, address)?;
    let stream = TcpStream::from_std(socket.into())?;
    Ok(Begun { stream, stands })
}

/// Whether the connection stands, rather than being under way.
fn connects(socket: &Socket, address: SocketAddr) -> io::Result<bool> {
    use rustix::io::Errno;
    match socket.connect(&address.into()) {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::INPROGRESS | Errno::ALREADY) => Ok(false),
            _ => Err(error),
        },
    }
}

async fn finish(begun: Begun, limit: Duration) -> io::Result<TcpStream> {
    let Begun { stream, stands } = begun;
    if stands {
        return Ok(stream);
    }
    timeout(limit, stream.writable()).await.map_err(|_elapsed| {
        io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"))
    })??;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

fn because(error: &io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn options() -> DialOptions {
        DialOptions {
            source: None,
            transparent: false,
            mark: None,
            keepalive: Keepalive {
                time: Duration::from_secs(60),
                interval: Duration::from_secs(10),
                retries: 3,
            },
            timeout: Duration::from_secs(5),
        }
    }

    #[tokio::test]
    async fn the_source_address_is_the_one_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = DialOptions { source: Some("127.0.0.6".parse().unwrap()), ..options() };
        let stream = connect(listener.local_addr().unwrap(), &options).await.unwrap();
        let (_accepted, client) = listener.accept().await.unwrap();
        assert_eq!(client.ip(), "127.0.0.6".parse::<IpAddr>().unwrap());
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_refused_connection_is_an_error() {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = connect(address, &options()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_dial_is_remembered_until_it_is_dropped() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dials = OwnDials::default();
        let (stream, own) =
            connect_remembered(listener.local_addr().unwrap(), &options(), &dials).await.unwrap();
        assert!(dials.contains(stream.local_addr().unwrap()));
        drop(own);
        assert!(!dials.contains(stream.local_addr().unwrap()));
    }
}
