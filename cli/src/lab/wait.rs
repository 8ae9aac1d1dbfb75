//! Waiting for a condition, never for luck: each wait has a deadline and ends at once on SIGINT or SIGTERM.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::LabError;

/// Short enough not to be felt, long enough not to burn a core.
const PAUSE: Duration = Duration::from_millis(10);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ends all waits of this process with [`LabError::Interrupted`], now and later.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on a signal to stop ends all waits, and with them what waits, which then takes everything down.
pub(crate) fn watch_signals() -> Result<(), LabError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(LabError::io("watch for signals"))?;
    let (mut interrupted, mut terminated, mut hung_up) = {
        let _inside = runtime.enter();
        let watch = |kind| signal(kind).map_err(LabError::io("watch for signals"));
        (watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?, watch(SignalKind::hangup())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupted.recv() => {}
                _ = terminated.recv() => {}
                _ = hung_up.recv() => {}
            }
            interrupt();
            // Stays, so that a second signal does not cut the clean-up short.
            std::future::pending::<()>().await;
        });
    });
    Ok(())
}

/// Whether [`interrupt`] was called.
pub(crate) fn check_interrupt() -> Result<(), LabError> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(LabError::Interrupted) } else { Ok(()) }
}

/// Asks `condition` until it answers, for at most `timeout`. `what` completes "waited in vain for …"; an `Err` of the
/// condition ends the wait.
///
/// # Errors
/// [`LabError::Late`], [`LabError::Interrupted`], and those of the condition.
pub fn wait_until<T>(
    timeout: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<Option<T>, LabError>,
) -> Result<T, LabError> {
    let started = Instant::now();
    loop {
        check_interrupt()?;
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if started.elapsed() >= timeout {
            return Err(late(what, started));
        }
        thread::sleep(PAUSE);
    }
}

fn late(what: &str, started: Instant) -> LabError {
    LabError::Late { what: what.to_owned(), seconds: started.elapsed().as_secs_f64(), seen: String::new() }
}

impl LabError {
    /// Adds what was seen instead, which is asked for only when it was too late.
    #[must_use]
    pub(crate) fn having_seen(self, look: impl FnOnce() -> String) -> Self {
        match self {
            LabError::Late { what, seconds, seen } if seen.is_empty() => {
                LabError::Late { what, seconds, seen: look() }
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut asked = 0;
        let answer = wait_until(Duration::from_secs(5), "three questions", || {
            asked += 1;
            Ok((asked == 3).then_some("yes"))
        });
        assert_eq!(answer.unwrap(), "yes");
    }

    #[test]
    fn a_condition_that_never_comes_true_is_named_at_the_deadline() {
        let error = wait_until::<()>(Duration::from_millis(30), "rain", || Ok(None))
            .unwrap_err()
            .having_seen(|| "sunshine".to_owned());
        let text = error.to_string();
        assert!(text.contains("in vain for rain") && text.contains("sunshine"), "{text}");
    }
}
