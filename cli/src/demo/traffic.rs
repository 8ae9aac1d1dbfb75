//! Calls of the frontend in the background, one after the other, while something else changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::stage::{Call, Caller};

/// Between two calls: about as many as a person with a nervous finger makes.
const PAUSE: Duration = Duration::from_millis(20);

/// What came of the calls.
#[derive(Debug, Default)]
pub(super) struct Count {
    ok: usize,
    pub(super) failed: usize,
    /// What the first failure was.
    pub(super) first_failure: Option<String>,
}

/// Calls until it is stopped or dropped.
pub(super) struct Traffic {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Count>>,
}

impl Traffic {
    pub(super) fn start(caller: Caller) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = thread::spawn({
            let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
            move || {
                let mut count = Count::default();
                while !stop.load(Ordering::Relaxed) {
                    count.add(caller.call());
                    made.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(PAUSE);
                }
                count
            }
        });
        Self { stop, made, thread: Some(thread) }
    }

    /// Calls made so far.
    pub(super) fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    /// Finishes the call under way and counts.
    pub(super) fn stop(mut self) -> Count {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Count {
    /// All calls.
    pub(super) fn made(&self) -> usize {
        self.ok + self.failed
    }

    fn add(&mut self, call: Call) {
        match call.failure {
            None => self.ok += 1,
            Some(failure) => {
                self.failed += 1;
                self.first_failure.get_or_insert(failure);
            }
        }
    }
}
