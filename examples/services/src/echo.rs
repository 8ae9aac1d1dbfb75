//! `echo`: sends back what it gets; when the client ends its direction, it ends its own (half-close).

use std::io;
use std::time::Duration;

use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::server;

/// A connection on which nothing moves for this long is closed.
const IDLE: Duration = Duration::from_secs(600);

/// A TCP app that sends back what it gets.
#[derive(Debug, Parser)]
#[command(name = "echo", version)]
pub(crate) struct Options {
    #[command(flatten)]
    listen: crate::Listen,
}

/// Serves until a signal.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    server::serve(options.listen.listen, |mut stream, _, _| async move {
        // How a client's connection ends is the client's business.
        let _ = echo(&mut stream).await;
    })
    .await
}

/// Sends back what comes until the client ends its direction, then ends the other.
///
/// It reads on only when all was sent, so a client that does not read is not read from either.
///
/// # Errors
/// Those of the socket; `TimedOut` when nothing moved for ten minutes.
pub(crate) async fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = timeout(IDLE, stream.read(&mut buffer)).await??;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return stream.shutdown().await;
        };
        timeout(IDLE, stream.write_all(bytes)).await??;
    }
}
