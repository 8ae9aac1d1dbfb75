//! The server's side of a mesh handshake.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use pillion_mesh::client_hello::{ClientHello, Sniff, Sniffer};
use pillion_mesh::wire::How;
use rustls::{CipherSuite, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::failure::{Role, attending, farewell};
use super::handshake::record;
use super::sessions::Issuer;
use super::stream::TlsStream;
use super::{Credentials, Door, Handshake, HandshakeError};
use crate::net::Leg;
use crate::net::tap::Tap;

/// Reads a ClientHello and finishes the handshake with a client that must prove a SPIFFE ID, or has proved it at the same
/// `door` not long ago. Puts no deadline on it: the caller's has to cover a farewell of at most 0.2 s after a failure.
///
/// # Errors
/// Why there is no such client; the connection is closed then, after an alert that says as much as the client may know.
pub(crate) async fn accept<S>(
    transport: S,
    tap: Arc<Tap>,
    credentials: &Credentials,
    door: Door,
) -> Result<(TlsStream<S>, Handshake), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Leg + Unpin,
{
    accept_for(Purpose::Connection, transport, tap, credentials, door).await
}

/// The same for a tunnel, in which HTTP/2 is spoken: a client that offers others but not this (ALPN) is refused.
///
/// # Errors
/// As those of [`accept`].
pub(crate) async fn accept_tunnel<S>(
    transport: S,
    tap: Arc<Tap>,
    credentials: &Credentials,
    door: Door,
) -> Result<(TlsStream<S>, Handshake), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Leg + Unpin,
{
    accept_for(Purpose::Tunnel, transport, tap, credentials, door).await
}

/// What a client comes for.
#[derive(Clone, Copy)]
enum Purpose {
    Connection,
    Tunnel,
}

async fn accept_for<S>(
    purpose: Purpose,
    transport: S,
    tap: Arc<Tap>,
    credentials: &Credentials,
    door: Door,
) -> Result<(TlsStream<S>, Handshake), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Leg + Unpin,
{
    let begun = Instant::now();
    let issuer = credentials.issuer(door);
    let stream = attending(async {
        let (error, rest) = match run(purpose, transport, tap, credentials, issuer.as_ref()).await {
            Ok(stream) => return Ok(stream),
            Err(failed) => failed,
        };
        let error = credentials.explain(&error, Role::Client);
        farewell(rest).await;
        Err(error)
    })
    .await?;
    let handshake = record(stream.connection(), credentials, Role::Client, begun.elapsed())?;
    if let Some(issuer) = issuer {
        issuer.finished(stream.connection())?;
    }
    Ok((stream, handshake))
}

/// On failure gives the transport back.
async fn run<S>(
    purpose: Purpose,
    mut transport: S,
    tap: Arc<Tap>,
    credentials: &Credentials,
    issuer: Option<&Arc<Issuer>>,
) -> Result<TlsStream<S>, (io::Error, S)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (incoming, hello) = match first_bytes(&mut transport).await {
        Ok(read) => read,
        Err(error) => {
            note_break(&tap, &error);
            return Err((error, transport));
        }
    };
    // What is no hello gets rustls' answer.
    let config = match purpose {
        Purpose::Connection => {
            credentials.server_config(hello.iter().flat_map(|hello| hello.alpn.iter().map(Vec::as_slice)))
        }
        Purpose::Tunnel => credentials.tunnel_config(),
    };
    let speaks_13 = hello.is_some_and(|hello| hello.cipher_suites.iter().any(|suite| is_of_tls13(*suite)));
    let config = match issuer.filter(|_| speaks_13) {
        Some(issuer) => giving_tickets(&config, issuer),
        None => config,
    };
    let mut stream = TlsStream::server(transport, tap, config, incoming)?;
    match stream.handshake().await {
        Ok(()) => Ok(stream),
        Err(error) => Err((error, stream.into_transport())),
    }
}

/// Reads until there is a whole ClientHello, by which the configuration is chosen, or it is clear that there is none.
async fn first_bytes<S: AsyncRead + Unpin>(transport: &mut S) -> io::Result<(Vec<u8>, Option<ClientHello>)> {
    /// As large as rustls takes one.
    const LARGEST: usize = 64 * 1024;
    let (mut bytes, mut sniffer) = (Vec::with_capacity(2048), Sniffer::default());
    loop {
        if transport.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match sniffer.sniff(&bytes) {
            Sniff::Tls(hello) => return Ok((bytes, Some(hello))),
            Sniff::NeedMore if bytes.len() < LARGEST => {}
            Sniff::NeedMore | Sniff::NotTls => return Ok((bytes, None)),
        }
    }
}

fn note_break(tap: &Tap, error: &io::Error) {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => tap.broken_off(How::Fin),
        io::ErrorKind::ConnectionReset => tap.broken_off(How::Reset),
        _ => {}
    }
}

/// One that no older version has: sessions of TLS 1.2 are not resumed, so its clients get no ticket.
fn is_of_tls13(suite: u16) -> bool {
    [
        CipherSuite::TLS13_AES_128_GCM_SHA256,
        CipherSuite::TLS13_AES_256_GCM_SHA384,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    ]
    .contains(&suite.into())
}

/// The same configuration for one connection: a ticket for each, good for one more.
fn giving_tickets(config: &ServerConfig, issuer: &Arc<Issuer>) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.ticketer = Arc::clone(issuer) as Arc<dyn rustls::server::ProducesTickets>;
    config.send_tls13_tickets = 1;
    Arc::new(config)
}
