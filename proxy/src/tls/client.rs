//! The client's side of a mesh handshake.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use pillion_mesh::spiffe::SpiffeId;
use pillion_mesh::tunnel;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::failure::{Role, attending, farewell};
use super::handshake::record;
use super::sessions::Keeper;
use super::{Credentials, Handshake, HandshakeError};

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
    stream: S,
    credentials: &Credentials,
    address: SocketAddr,
    sni: &str,
    identities: impl Into<Arc<[SpiffeId]>>,
) -> Result<(TlsStream<S>, Handshake), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (config, keeper) = credentials.client_config((address, sni), &identities.into());
    run(stream, credentials, config, keeper, sni).await
}

/// The same for a tunnel, in which HTTP/2 is spoken. It leads to an address, so no server name is sent.
///
/// # Errors
/// As those of [`connect`].
pub(crate) async fn connect_tunnel<S>(
    stream: S,
    credentials: &Credentials,
    address: SocketAddr,
    identities: Arc<[SpiffeId]>,
) -> Result<(TlsStream<S>, Handshake), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut config, keeper) = credentials.client_config((address, ""), &identities);
    config.alpn_protocols = vec![tunnel::ALPN.to_vec()];
    run(stream, credentials, config, keeper, "").await
}

async fn run<S>(
    stream: S,
    credentials: &Credentials,
    config: ClientConfig,
    keeper: Option<Arc<Keeper>>,
    sni: &str,
) -> Result<(TlsStream<S>, Handshake), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let begun = Instant::now();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = attending(async {
        match connector.connect(server_name(sni), stream).into_fallible().await {
            Ok(stream) => Ok(stream),
            Err((error, rest)) => {
                let error = credentials.explain(&error, Role::Server);
                farewell(rest).await;
                Err(error)
            }
        }
    })
    .await?;
    let handshake = record(stream.get_ref().1, credentials, Role::Server, begun.elapsed())?;
    if let Some(keeper) = keeper {
        keeper.finished(stream.get_ref().1)?;
    }
    Ok((stream, handshake))
}

/// A name that DNS syntax does not allow is not sent; for an address rustls sends none either (RFC 6066 3).
fn server_name(sni: &str) -> ServerName<'static> {
    ServerName::try_from(sni.to_owned()).unwrap_or_else(|_invalid| no_name())
}

/// For rustls, which wants a name: one that it does not send.
pub(super) fn no_name() -> ServerName<'static> {
    ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}
