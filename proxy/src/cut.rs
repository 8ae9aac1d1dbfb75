//! Work that somebody may cut short who hardly ever does.
//!
//! A connection waits for bytes, and beside that for a change that ends it. Asking both each time that bytes come costs more
//! than moving them, where they are few; so the one who cuts is asked only when he has called.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// What `work` comes to, or, as the error, why `cut` has ended it.
pub(crate) async fn unless<W: Future, C: Future>(work: W, cut: C) -> Result<W::Output, C::Output> {
    let (mut work, mut cut) = (pin!(work), pin!(cut));
    let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: Mutex::default() });
    let waker = Waker::from(bell.clone());
    let mut task: Option<Waker> = None;
    poll_fn(|cx| {
        if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            task = Some(cx.waker().clone());
            *bell.task.lock().unwrap_or_else(PoisonError::into_inner) = task.clone();
        }
        if bell.rung.swap(false, Ordering::AcqRel)
            && let Poll::Ready(because) = cut.as_mut().poll(&mut Context::from_waker(&waker))
        {
            return Poll::Ready(Err(because));
        }
        work.as_mut().poll(cx).map(Ok)
    })
    .await
}

/// Rung by who cuts.
struct Bell {
    rung: AtomicBool,
    /// Who is to look.
    task: Mutex<Option<Waker>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        // Outside of the lock: the task may look at once.
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use tokio::sync::{Notify, mpsc};

    use super::*;

    #[tokio::test]
    async fn the_work_ends_by_itself() {
        assert_eq!(unless(async { 7 }, pending::<String>()).await, Ok(7));
    }

    #[tokio::test]
    async fn who_cuts_at_once_is_heard_before_the_work_begins() {
        let begun = Cell::new(false);
        let ended = unless(async { begun.set(true) }, async { "cut" }).await;
        assert_eq!((ended, begun.get()), (Err("cut"), false));
    }

    #[tokio::test]
    async fn who_cuts_later_is_heard_while_the_work_waits() {
        let notify = Arc::new(Notify::new());
        let ringing = notify.clone();
        tokio::spawn(async move { ringing.notify_one() });
        assert_eq!(unless(pending::<()>(), async { notify.notified().await }).await, Err(()));
    }

    #[tokio::test]
    async fn who_cuts_is_not_asked_each_time_the_work_goes_on() {
        let (sender, mut receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            for _ in 0..20 {
                sender.send(()).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let asked = Cell::new(0);
        let cut = poll_fn(|_| {
            asked.set(asked.get() + 1);
            Poll::<()>::Pending
        });
        let work = async { while receiver.recv().await.is_some() {} };
        unless(work, cut).await.unwrap();
        assert_eq!(asked.get(), 1);
    }
}
