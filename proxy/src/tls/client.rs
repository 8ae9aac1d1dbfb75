//! The client's side of a mesh handshake.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use pillion_mesh::spiffe::SpiffeId;
use pillion_mesh::tunnel;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};

use super::failure::{Role, attending, farewell};
use super::handshake::record;
use super::sessions::Keeper;
use super::stream::TlsStream;
use super::{Credentials, Handshake, HandshakeError};
use crate::net::Leg;
use crate::net::tap::Tap;

/// Handshakes with a server that must prove one of `identities`, byte for byte, which stand in the order of their texts.
/// `sni` only helps the server to route, and `address` only tells it from other servers whose sessions may be resumed.
/// Puts no deadline on it: the caller's has to cover a farewell of at most 0.2 s after a failure.
///
/// In TLS 1.3 a server that refuses *our* certificate says so after this has returned: the first read fails with its
/// alert.
///
/// # Errors
/// Why there is no such server; with no `identities` there never is one.
pub(crate) async fn connect<S>(
    transport: S,
    tap: Arc<Tap>,
    credentials: &Credentials,
    address: SocketAddr,
    sni: &str,
    identities: impl Into<Arc<[SpiffeId]>>,
) -> Result<(TlsStream<S>, Handshake), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Leg + Unpin,
{
    let (config, keeper) = credentials.client_config((address, sni), &identities.into());
    run(transport, tap, credentials, config, keeper, sni).await
}

/// The same for a tunnel, in which HTTP/2 is spoken. It leads to an address, so no server name is sent.
///
/// # Errors
/// As those of [`connect`].
pub(crate) async fn connect_tunnel<S>(
    transport: S,
    tap: Arc<Tap>,
    credentials: &Credentials,
    address: SocketAddr,
    identities: Arc<[SpiffeId]>,
) -> Result<(TlsStream<S>, Handshake), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Leg + Unpin,
{
    let (mut config, keeper) = credentials.client_config((address, ""), &identities);
    config.alpn_protocols = vec![tunnel::ALPN.to_vec()];
    run(transport, tap, credentials, config, keeper, "").await
}

async fn run<S>(
    transport: S,
    tap: Arc<Tap>,
    credentials: &Credentials,
    config: ClientConfig,
    keeper: Option<Arc<Keeper>>,
    sni: &str,
) -> Result<(TlsStream<S>, Handshake), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Leg + Unpin,
{
    let begun = Instant::now();
    let stream = attending(async {
        match shake(transport, tap, Arc::new(config), server_name(sni)).await {
            Ok(stream) => Ok(stream),
            Err((error, rest)) => {
                let error = credentials.explain(&error, Role::Server);
                farewell(rest).await;
                Err(error)
            }
        }
    })
    .await?;
    let handshake = record(stream.connection(), credentials, Role::Server, begun.elapsed())?;
    if let Some(keeper) = keeper {
        keeper.finished(stream.connection())?;
    }
    Ok((stream, handshake))
}

/// Finishes a handshake as a client; on failure gives the transport back.
pub(super) async fn shake<S>(
    transport: S,
    tap: Arc<Tap>,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<TlsStream<S>, (io::Error, S)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = TlsStream::client(transport, tap, config, name)?;
    match stream.handshake().await {
        Ok(()) => Ok(stream),
        Err(error) => Err((error, stream.into_transport())),
    }
}

/// A name that DNS syntax does not allow is not sent; for an address rustls sends none either (RFC 6066 3).
fn server_name(sni: &str) -> ServerName<'static> {
    ServerName::try_from(sni.to_owned()).unwrap_or_else(|_invalid| no_name())
}

/// For rustls, which wants a name: one that it does not send.
pub(super) fn no_name() -> ServerName<'static> {
    ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}
