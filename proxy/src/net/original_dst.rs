//! Where a redirected connection was going before the kernel redirected it.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::settings::InterceptionMode;

/// The original destination.
///
/// With REDIRECT it is what conntrack remembers (`SO_ORIGINAL_DST`, for IPv6 `IP6T_SO_ORIGINAL_DST`); with TPROXY the
/// accepted socket's own address is the one that the client dialled.
///
/// # Errors
/// With REDIRECT, where the kernel knows of no redirection: `ENOENT` or `ENOPROTOOPT`.
pub(crate) fn original_destination(stream: &TcpStream, mode: InterceptionMode) -> io::Result<SocketAddr> {
    let local = canonical(stream.local_addr()?);
    if mode == InterceptionMode::Tproxy {
        return Ok(local);
    }
    let socket = SockRef::from(stream);
    let original = if local.is_ipv4() { socket.original_dst_v4()? } else { socket.original_dst_v6()? };
    original.as_socket().map(canonical).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the original destination is no IP address")
    })
}

/// The address with an IPv4-mapped IPv6 address (a dual-stack socket's view) as IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn tproxy_takes_the_accepted_sockets_own_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_client, accepted) = (client.unwrap(), accepted.unwrap().0);
        assert_eq!(original_destination(&accepted, InterceptionMode::Tproxy).unwrap(), address);
    }

    /// On a real socket that nothing redirected, the kernel says so or gives the socket's own address; both are
    /// refused by the caller.
    #[tokio::test]
    async fn without_redirection_there_is_no_foreign_destination() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_client, accepted) = (client.unwrap(), accepted.unwrap().0);
        let original = original_destination(&accepted, InterceptionMode::Redirect);
        assert!(original.is_err() || original.unwrap() == address);
    }

    #[test]
    fn an_ipv4_mapped_address_is_ipv4() {
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(canonical(mapped), "10.0.0.1:80".parse().unwrap());
    }
}
