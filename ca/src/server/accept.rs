//! Taking connections in: as many as there are permits for, and calmly where the system refuses more.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pauses after failures of accept, such as a lack of descriptors (requirement 27): from the first, doubling to the
/// last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// Accepts until `stop` and hands each connection to a task of its own. At `limit` open connections it accepts no
/// more until one ends; those who dial wait in the kernel's backlog.
pub(super) async fn accept<Serve, Connection>(
    listener: TcpListener,
    limit: usize,
    stop: &CancellationToken,
    connections: &TaskTracker,
    mut serve: Serve,
) where
    Serve: FnMut(TcpStream, SocketAddr) -> Connection,
    Connection: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(limit));
    let mut pause = FIRST_PAUSE;
    while let Some(accepted) = stop.run_until_cancelled(next(&listener, &permits)).await {
        match accepted {
            Ok((permit, stream, peer)) => {
                pause = FIRST_PAUSE;
                let connection = serve(stream, peer);
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "cannot accept a connection; trying again in {pause:?}");
                stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                pause = LAST_PAUSE.min(pause * 2);
            }
        }
    }
}

/// Cancel-safe: what is dropped here is a place in a queue.
async fn next(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(OwnedSemaphorePermit, TcpStream, SocketAddr)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((permit, stream, peer))
}
