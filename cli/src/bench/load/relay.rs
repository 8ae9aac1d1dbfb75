//! The floor for all proxies: what it costs to pass bytes on and know nothing of them.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice as splice_once};

use super::app::{CHUNK, REST, listen_at};

/// Connections that [`splice`] serves at once; each takes two threads.
const MOST: usize = 256;

/// Passes on by read and write, 64 KiB at once, until the process is killed.
pub(super) async fn copy(listen: SocketAddr, to: SocketAddr) -> anyhow::Result<()> {
    let listener = listen_at(listen)?;
    println!("listening on {listen}");
    loop {
        let Ok((mut near, _)) = listener.accept().await else {
            tokio::time::sleep(REST).await;
            continue;
        };
        tokio::spawn(async move {
            let mut far = tokio::net::TcpStream::connect(to).await?;
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, CHUNK, CHUNK).await
        });
    }
}

/// Passes on by splice(2), a thread for each direction, until the process is killed.
pub(super) fn splice(listen: SocketAddr, to: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen)?;
    println!("listening on {listen}");
    let count = Arc::new(());
    loop {
        let Ok((near, _)) = listener.accept() else {
            thread::sleep(REST);
            continue;
        };
        if Arc::strong_count(&count) > MOST {
            continue;
        }
        let one = Arc::clone(&count);
        thread::spawn(move || {
            let _one = one;
            both(&near, to)
        });
    }
}

fn both(near: &TcpStream, to: SocketAddr) -> io::Result<()> {
    let far = TcpStream::connect(to)?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    thread::scope(|scope| {
        let back = scope.spawn(|| one_way(&far, near));
        let there = one_way(near, &far);
        let back = back.join().unwrap_or_else(|_panic| Err(io::ErrorKind::Other.into()));
        there.and(back)
    })
}

fn one_way(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    const LARGE: usize = 1 << 20;
    let (exit, entry) = pipe_with(PipeFlags::CLOEXEC)?;
    // A smaller pipe only makes it slower.
    let _ = fcntl_setpipe_size(&entry, LARGE);
    let flags = SpliceFlags::MOVE | SpliceFlags::MORE;
    loop {
        let mut length = splice_once(from, None, &entry, None, LARGE, flags)?;
        if length == 0 {
            return to.shutdown(std::net::Shutdown::Write);
        }
        while length > 0 {
            // Without MORE, which would hold back what is not a whole segment.
            let gone = splice_once(&exit, None, to, None, length, SpliceFlags::MOVE)?;
            length = length.saturating_sub(gone.max(1));
        }
    }
}
