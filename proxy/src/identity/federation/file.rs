//! Follows a bundle in a file, by its content: it works on every mount.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;
use zeroize::Zeroizing;

use super::Shared;
use crate::identity::authority::read_file;
use crate::tls::Bundles;

/// How often the file is read.
const POLL: Duration = Duration::from_secs(1);

/// The task that follows.
pub(super) struct Follower {
    shared: Shared,
    path: PathBuf,
    /// What was seen last, or the error that reading it gave.
    seen: Option<Result<Zeroizing<Vec<u8>>, String>>,
}

impl Follower {
    pub(super) fn new(shared: Shared, path: PathBuf) -> Follower {
        Follower { shared, path, seen: None }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        loop {
            let read = read_file(self.path.clone()).await.map_err(|error| error.to_string());
            if self.seen.as_ref() != Some(&read) {
                self.look_at(&read);
                self.seen = Some(read);
            }
            sleep(POLL).await;
        }
    }

    fn look_at(&self, read: &Result<Zeroizing<Vec<u8>>, String>) {
        let path = self.path.display();
        match read
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|text| Bundles::from_text(&self.shared.trust_domain, text))
        {
            Ok((bundles, _)) => self.shared.take(bundles, &path.to_string()),
            Err(fault) => self.shared.failed(&format!("{path}: {fault}"), false),
        }
    }
}
