//! The server's side of a mesh handshake.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustls::server::Acceptor;
use rustls::{CipherSuite, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::failure::{FAREWELL, Role, attending, farewell};
use super::handshake::record;
use super::sessions::Issuer;
use super::{Credentials, Door, Handshake, HandshakeError};

/// Reads a ClientHello and finishes the handshake with a client that must prove a SPIFFE ID, or has proved it at the same
/// `door` not long ago. Puts no deadline on it: the caller's has to cover a farewell of at most 0.2 s after a failure.
///
/// # Errors
/// Why there is no such client; the connection is closed then, after an alert that says as much as the client may know.
pub(crate) async fn accept<S>(
    stream: S,
    credentials: &Credentials,
    door: Door,
) -> Result<(TlsStream<S>, Handshake), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    accept_for(Purpose::Connection, stream, credentials, door).await
}

/// The same for a tunnel, in which HTTP/2 is spoken: a client that offers others but not this (ALPN) is refused.
///
/// # Errors
/// As those of [`accept`].
pub(crate) async fn accept_tunnel<S>(
    stream: S,
    credentials: &Credentials,
    door: Door,
) -> Result<(TlsStream<S>, Handshake), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    accept_for(Purpose::Tunnel, stream, credentials, door).await
}

/// What a client comes for.
#[derive(Clone, Copy)]
enum Purpose {
    Connection,
    Tunnel,
}

async fn accept_for<S>(
    purpose: Purpose,
    stream: S,
    credentials: &Credentials,
    door: Door,
) -> Result<(TlsStream<S>, Handshake), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let begun = Instant::now();
    let issuer = credentials.issuer(door);
    let stream = attending(async {
        let (error, rest) = match run(purpose, stream, credentials, issuer.as_ref()).await {
            Ok(stream) => return Ok(stream),
            Err(failed) => failed,
        };
        let error = credentials.explain(&error, Role::Client);
        if let Some(rest) = rest {
            farewell(rest).await;
        }
        Err(error)
    })
    .await?;
    let handshake = record(stream.get_ref().1, credentials, Role::Client, begun.elapsed())?;
    if let Some(issuer) = issuer {
        issuer.finished(stream.get_ref().1)?;
    }
    Ok((stream, handshake))
}

/// On failure gives the transport back where there still is one.
async fn run<S>(
    purpose: Purpose,
    stream: S,
    credentials: &Credentials,
    issuer: Option<&Arc<Issuer>>,
) -> Result<TlsStream<S>, (io::Error, Option<S>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let hello = match (&mut acceptor).await {
        Ok(hello) => hello,
        Err(error) => return Err((error, acceptor.take_io())),
    };
    let asked = hello.client_hello();
    let config = match purpose {
        Purpose::Connection => credentials.server_config(asked.alpn().into_iter().flatten()),
        Purpose::Tunnel => credentials.tunnel_config(),
    };
    let config = match issuer.filter(|_| asked.cipher_suites().iter().any(is_of_tls13)) {
        Some(issuer) => giving_tickets(&config, issuer),
        None => config,
    };
    // No client may send anything between its hello and our answer; bytes that came with the hello would otherwise
    // be looked at only when more arrive.
    let mut behind_hello = Ok(());
    let handshake = hello.into_stream_with(config, |connection| {
        behind_hello = connection.process_new_packets().map(drop);
    });
    if let Err(error) = behind_hello {
        let _ = timeout(FAREWELL, handshake).await;
        return Err((io::Error::new(io::ErrorKind::InvalidData, error), None));
    }
    handshake.into_fallible().await.map_err(|(error, rest)| (error, Some(rest)))
}

/// One that no older version has: sessions of TLS 1.2 are not resumed, so its clients get no ticket.
fn is_of_tls13(suite: &CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
    )
}

/// The same configuration for one connection: a ticket for each, good for one more.
fn giving_tickets(config: &ServerConfig, issuer: &Arc<Issuer>) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.ticketer = Arc::clone(issuer) as Arc<dyn rustls::server::ProducesTickets>;
    config.send_tls13_tickets = 1;
    Arc::new(config)
}
