//! Plain TCP peers, named by what they do. Each listens on a free port of 127.0.0.1 until it is dropped.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The longest that a client here waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A listening peer.
#[derive(Debug)]
pub struct Listening {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sends back what it gets, and closes its direction when the client has closed its own.
pub async fn echo_app() -> Listening {
    serve(|mut stream| async move {
        let (mut from, mut to) = stream.split();
        copy(&mut from, &mut to).await?;
        to.shutdown().await
    })
    .await
}

/// Sends `banner` before it reads anything, then echoes: what SMTP and MySQL servers do.
pub async fn app_that_speaks_first(banner: &'static [u8]) -> Listening {
    serve(move |mut stream| async move {
        stream.write_all(banner).await?;
        let (mut from, mut to) = stream.split();
        copy(&mut from, &mut to).await?;
        to.shutdown().await
    })
    .await
}

/// Accepts and never says a word nor reads one.
pub async fn silent_app() -> Listening {
    serve(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
        Ok(())
    })
    .await
}

/// Sends `bytes`, closes its direction and returns everything that comes back.
///
/// # Errors
/// What the connection fails with; `TimedOut` after [`PATIENCE`].
pub async fn send_and_half_close(address: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    timeout(PATIENCE, async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(bytes).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    })
    .await?
}

async fn serve<F, Served>(each: F) -> Listening
where
    F: Fn(TcpStream) -> Served + Send + 'static,
    Served: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    let task = tokio::spawn(async move {
        let mut open = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.spawn(each(stream));
        }
    });
    Listening { address, task }
}
