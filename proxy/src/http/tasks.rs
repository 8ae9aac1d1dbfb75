//! Tasks that live as long as one connection: hyper runs each HTTP/2 stream, and each connection that requests are passed
//! on by, in one of its own.

use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;

/// Starts tasks. Clones start them for the same connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks(CancellationToken);

impl Tasks {
    /// Runs a task until it ends or the connection does.
    pub(crate) fn spawn<F>(&self, task: F)
    where
        F: Future + Send + 'static,
    {
        let ended = self.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                _ = task => {}
            }
        });
    }

    /// The connection has ended: every task is dropped where it stands.
    pub(super) fn end(&self) {
        self.0.cancel();
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
{
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}
