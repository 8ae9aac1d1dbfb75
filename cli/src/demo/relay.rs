//! A TCP relay in this process: it publishes a port of a node on the host, and where no tap can listen in on a wire it is
//! the wire, with a window.

use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

use crate::wiretap::Segment;

/// Connections at the same time; more wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 256;

/// What passed, in both directions.
pub(super) type Heard = Arc<Mutex<Vec<Segment>>>;

/// Runs until it is dropped.
#[derive(Debug)]
pub(super) struct Relay {
    address: SocketAddr,
    heard: Option<Heard>,
    /// Dropped, it stops the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Makes the connection onwards; blocking.
type Dial = dyn Fn() -> io::Result<StdTcpStream> + Send + Sync;

impl Relay {
    /// Accepts on `listener` and passes everything on to what `dial` reaches. With `record` it keeps what passes.
    pub(super) fn start(
        listener: std::net::TcpListener,
        record: bool,
        dial: impl Fn() -> io::Result<StdTcpStream> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let heard = record.then(Heard::default);
        let (stop, stopped) = oneshot::channel();
        let accept = accept(listener, heard.clone(), Arc::new(dial));
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = accept => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        Ok(Self { address, heard, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What passed so far; nothing unless it records.
    pub(super) fn segments(&self) -> Vec<Segment> {
        self.heard
            .as_ref()
            .map(|heard| heard.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .unwrap_or_default()
    }

    /// Forgets what passed so far.
    pub(super) fn clear(&self) {
        if let Some(heard) = &self.heard {
            heard.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: std::net::TcpListener, heard: Option<Heard>, dial: Arc<Dial>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return Ok(()) };
        let (client, _) = listener.accept().await?;
        let (heard, dial) = (heard.clone(), Arc::clone(&dial));
        tokio::spawn(async move {
            // How a connection of others ends is their business.
            let _ = relay(client, heard, dial).await;
            drop(slot);
        });
    }
}

async fn relay(client: TcpStream, heard: Option<Heard>, dial: Arc<Dial>) -> io::Result<()> {
    let server = tokio::task::spawn_blocking(move || dial()).await.map_err(io::Error::other)??;
    server.set_nonblocking(true)?;
    let server = TcpStream::from_std(server)?;
    let (from, to) = (client.peer_addr()?, server.peer_addr()?);
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::try_join!(
        copy(client_read, server_write, heard.clone(), (from, to)),
        copy(server_read, client_write, heard, (to, from)),
    )?;
    Ok(())
}

/// One direction until its end; then the other side's reading ends too, while its writing goes on.
async fn copy(
    mut reader: OwnedReadHalf,
    mut writer: OwnedWriteHalf,
    heard: Option<Heard>,
    (from, to): (SocketAddr, SocketAddr),
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = reader.read(&mut buffer).await?;
        let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
            return writer.shutdown().await;
        };
        if let Some(heard) = &heard {
            let segment = Segment { at: SystemTime::now(), from, to, payload: bytes.to_vec() };
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(segment);
        }
        writer.write_all(bytes).await?;
    }
}
