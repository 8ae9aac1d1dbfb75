//! The threads that serve connections: one for each core, each with a runtime of its own.
//!
//! A connection stays on the thread that has accepted it: nobody steals its tasks, and no other thread is woken for it. The
//! kernel spreads new connections over the threads' sockets (`SO_REUSEPORT`). Everything else, the admin API, certificates,
//! reloads and DNS, runs on the main thread and takes no time from them.

use std::io;
use std::num::NonZeroUsize;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;

use crate::entry::LAST_WORK;
use crate::memory;

/// The runtimes on which connections are served. Dropped, it ends them and what runs there.
#[derive(Debug)]
pub(crate) struct Workers {
    handles: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Workers {
    /// A thread for each core that this process may use.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub(crate) fn start() -> io::Result<Self> {
        Self::start_many(thread::available_parallelism().map_or(1, NonZeroUsize::get))
    }

    /// So many threads.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub(crate) fn start_many(count: usize) -> io::Result<Self> {
        let mut workers = Self { handles: Vec::new(), threads: Vec::new(), stop: CancellationToken::new() };
        for _ in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            workers.handles.push(runtime.handle().clone());
            let stop = workers.stop.clone();
            let thread = thread::Builder::new().name("pillion-worker".to_owned());
            workers.threads.push(thread.spawn(move || run(runtime, &stop))?);
        }
        Ok(workers)
    }

    /// The runtime that this is called in serves connections too.
    #[cfg(test)]
    pub(crate) fn here() -> Self {
        Self { handles: vec![Handle::current()], threads: Vec::new(), stop: CancellationToken::new() }
    }

    /// Their runtimes; at least one.
    pub(crate) fn handles(&self) -> &[Handle] {
        &self.handles
    }
}

fn run(runtime: Runtime, stop: &CancellationToken) {
    runtime.block_on(async {
        tokio::select! {
            () = stop.cancelled() => {}
            never = memory::keep_small() => match never {},
        }
    });
    runtime.shutdown_timeout(LAST_WORK);
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            // One that has panicked has nothing left to end.
            let _ = thread.join();
        }
    }
}
