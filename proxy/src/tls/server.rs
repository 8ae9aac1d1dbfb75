//! The server's side of a mesh handshake.

use std::io;
use std::time::Instant;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::failure::{FAREWELL, Role, attending, explain, farewell};
use super::handshake::record;
use super::{Credentials, Handshake, HandshakeError};

/// Reads a ClientHello and finishes the handshake with a client that must prove a SPIFFE ID. Puts no deadline on it:
/// the caller's has to cover a farewell of at most 0.2 s after a failure.
///
/// # Errors
/// Why there is no such client; the connection is closed then, after an alert that says as much as the client may know.
pub(crate) async fn accept<S>(
    stream: S,
    credentials: &Credentials,
) -> Result<(TlsStream<S>, Handshake), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let begun = Instant::now();
    let local = &credentials.svid.id;
    let stream = attending(async {
        let (error, rest) = match run(stream, credentials).await {
            Ok(stream) => return Ok(stream),
            Err(failed) => failed,
        };
        let error = explain(&error, Role::Client, local, credentials.settings());
        if let Some(rest) = rest {
            farewell(rest).await;
        }
        Err(error)
    })
    .await?;
    let handshake = record(stream.get_ref().1, credentials, Role::Client, begun.elapsed())?;
    Ok((stream, handshake))
}

/// On failure gives the transport back where there still is one.
async fn run<S>(stream: S, credentials: &Credentials) -> Result<TlsStream<S>, (io::Error, Option<S>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let hello = match (&mut acceptor).await {
        Ok(hello) => hello,
        Err(error) => return Err((error, acceptor.take_io())),
    };
    let config = credentials.server_config(hello.client_hello().alpn().into_iter().flatten());
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
