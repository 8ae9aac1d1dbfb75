//! Listening: accepts up to a limit of connections until a signal, then lets the open ones finish for a bounded time.

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// More clients than this wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;

/// How long open connections may go on after SIGTERM; `docker stop` waits ten seconds.
const DRAIN: Duration = Duration::from_secs(5);

/// Between two attempts to accept while the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Tells the handler of a connection that the server wants to stop.
#[derive(Clone)]
pub(crate) struct Stopping(watch::Receiver<bool>);

impl Stopping {
    /// Returns once the server wants to stop.
    pub(crate) async fn wait(&mut self) {
        // An error means that the sender is gone, which it is only once serving has ended.
        let _ = self.0.wait_for(|stopping| *stopping).await;
    }
}

/// Accepts on `address` and runs `handle` for each connection until SIGTERM or SIGINT.
pub(crate) async fn serve<Handle, Served>(address: SocketAddr, handle: Handle) -> anyhow::Result<()>
where
    Handle: Fn(TcpStream, SocketAddr, Stopping) -> Served,
    Served: Future<Output = ()> + Send + 'static,
{
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    announce(listener.local_addr()?)?;

    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, client)) => {
                    connections.spawn(handle(stream, client, Stopping(stopping.clone())));
                }
                Err(error) => {
                    eprintln!("cannot accept: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }

    drop(listener);
    stop.send_replace(true);
    // What is still open at the deadline is cut when the set is dropped.
    let _ = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

fn announce(address: SocketAddr) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "listening on {address}")?;
    stdout.flush()
}
