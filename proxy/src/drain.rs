//! Stopping: new connections are no longer taken, open ones may finish until a deadline.

use tokio_util::sync::CancellationToken;

/// Starts and observes the two steps of stopping. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trigger {
    draining: CancellationToken,
    quitting: CancellationToken,
}

impl Trigger {
    /// No new connections from now on.
    pub(crate) fn start(&self) {
        self.draining.cancel();
    }

    /// Open connections are cut now.
    pub(crate) fn quit(&self) {
        self.draining.cancel();
        self.quitting.cancel();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    pub(crate) fn is_quitting(&self) -> bool {
        self.quitting.is_cancelled()
    }

    /// Ends when draining begins.
    pub(crate) async fn started(&self) {
        self.draining.cancelled().await;
    }

    /// Ends when open connections are to be cut.
    pub(crate) async fn quitted(&self) {
        self.quitting.cancelled().await;
    }

    /// Cancelled when the process ends, for servers that stay until then.
    pub(crate) fn quit_token(&self) -> CancellationToken {
        self.quitting.clone()
    }
}
