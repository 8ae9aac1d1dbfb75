//! Work that somebody may cut short who hardly ever does.
//!
//! A connection waits for bytes, and beside that for a change that ends it. Asking both each time that bytes come costs more
//! than moving them, where they are few; so the one who cuts is asked only when he has called.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use pin_project_lite::pin_project;

/// What `work` comes to, or, as the error, why `cut` has ended it.
pub(crate) fn unless<W: Future, C: Future>(work: W, cut: C) -> Unless<W, C> {
    let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: Mutex::default() });
    Unless { work, cut, waker: Waker::from(bell.clone()), bell, task: None }
}

pin_project! {
    /// The future of [`unless`]. Written out, since an `async fn` would hold both of its arguments twice.
    pub(crate) struct Unless<W, C> {
        #[pin]
        work: W,
        #[pin]
        cut: C,
        bell: Arc<Bell>,
        waker: Waker,
        task: Option<Waker>,
    }
}

impl<W: Future, C: Future> Future for Unless<W, C> {
    type Output = Result<W::Output, C::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if !this.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            *this.task = Some(cx.waker().clone());
            *this.bell.task.lock().unwrap_or_else(PoisonError::into_inner) = this.task.clone();
        }
        if this.bell.rung.swap(false, Ordering::AcqRel)
            && let Poll::Ready(because) = this.cut.poll(&mut Context::from_waker(this.waker))
        {
            return Poll::Ready(Err(because));
        }
        Poll::Ready(Ok(ready!(this.work.poll(cx))))
    }
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
    use std::future::{pending, poll_fn};

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
