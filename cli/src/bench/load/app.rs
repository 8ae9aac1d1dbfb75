//! The app behind the proxies. The first byte of a connection says what it shall do; it is part of what is echoed.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// Give back what comes.
pub(super) const ECHO: u8 = b'e';
/// Swallow what comes, and say at its end how many bytes they were, as eight bytes, the largest first.
pub(super) const SINK: u8 = b's';
/// Send until the client ends its direction.
pub(super) const SOURCE: u8 = b'g';

/// What is read and written at once.
pub(super) const CHUNK: usize = 64 * 1024;

/// How long a listener rests after a failed accept, such as too many open files.
pub(super) const REST: Duration = Duration::from_millis(10);

/// Serves until the process is killed.
pub(super) async fn serve(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = listen_at(listen)?;
    println!("listening on {listen}");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                // What a client does wrong is the client's to count.
                tokio::spawn(async move { answer(stream).await });
            }
            Err(_) => tokio::time::sleep(REST).await,
        }
    }
}

/// With a queue that holds the connections of a burst.
pub(super) fn listen_at(listen: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(listen);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

/// The life of one connection, by TLS or not.
pub(super) async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut first = [0_u8; 1];
    if stream.read(&mut first).await? == 0 {
        return Ok(());
    }
    match first {
        [SINK] => sink(stream).await,
        [SOURCE] => source(stream).await,
        _ => echo(stream, first).await,
    }
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin, first: [u8; 1]) -> io::Result<()> {
    stream.write_all(&first).await?;
    stream.flush().await?;
    // Small, for there are tens of thousands of idle ones.
    let mut buffer = [0_u8; 1024];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(buffer.get(..length).unwrap_or_default()).await?;
        stream.flush().await?;
    }
}

async fn sink(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let (mut buffer, mut count) = (vec![0_u8; CHUNK], 1_u64);
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            stream.write_all(&count.to_be_bytes()).await?;
            return stream.shutdown().await;
        }
        count = count.saturating_add(u64::try_from(length).unwrap_or_default());
    }
}

async fn source(stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let (mut from, mut to) = tokio::io::split(stream);
    let chunk = vec![0x5a_u8; CHUNK];
    let send = async {
        loop {
            to.write_all(&chunk).await?;
        }
    };
    let ended = async { from.read(&mut [0_u8; 1]).await };
    let sent: io::Result<()> = tokio::select! {
        sent = send => sent,
        _ = ended => Ok(()),
    };
    sent?;
    to.shutdown().await
}
