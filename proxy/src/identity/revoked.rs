//! Watches the file of revocation lists by which peers of the mesh are judged. A change is taken whole or not at all; a fault
//! leaves the last good lists in force.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use pillion_mesh::wire::rfc3339;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::publish::Publisher;
use crate::files::read_bounded;
use crate::tls::{Clock, Revocations};

/// How often the file is read.
const POLL: Duration = Duration::from_secs(1);
/// The longest file: lists of a large authority are some megabytes.
const LIMIT: u64 = 16 << 20;

/// The task that watches.
pub(super) struct RevokedFile {
    path: PathBuf,
    clock: Clock,
    publisher: Publisher,
    memory: Memory,
}

/// What was seen so far.
#[derive(Default)]
struct Memory {
    used: Option<Seen>,
    last: Option<Seen>,
    reported: Option<Seen>,
    /// When the lists in force were to be replaced, where that was told.
    outdated: Option<SystemTime>,
}

/// A hash of the contents, or the fault that reading met.
type Seen = Result<[u8; 32], String>;

impl RevokedFile {
    /// `publisher` has to await lists.
    pub(super) fn new(path: PathBuf, clock: Clock, publisher: Publisher) -> Self {
        Self { path, clock, publisher, memory: Memory::default() }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        loop {
            self.look().await;
            self.mind_the_age();
            sleep(POLL).await;
        }
    }

    async fn look(&mut self) {
        let (path, used) = (self.path.clone(), self.memory.used.clone());
        // On a thread that may wait; a list of megabytes takes time to be read into words.
        let read = spawn_blocking(move || {
            let name = path.display().to_string();
            let text = read_bounded(&path, LIMIT).map_err(|fault| format!("{name}: {fault}"));
            let seen = text.as_ref().map(|text| hash(text)).map_err(Clone::clone);
            let is_used = used.as_ref() == Some(&seen);
            let lists = (!is_used).then(|| text.and_then(|text| Revocations::read(&name, &text)));
            (seen, lists)
        });
        let (seen, lists) = read.await.unwrap_or_else(|fault| {
            let fault = fault.to_string();
            (Err(fault.clone()), Some(Err(fault)))
        });
        match lists {
            None => self.as_in_use(),
            Some(Ok(lists)) => self.take(lists, &seen),
            Some(Err(fault)) => self.complain(fault, &seen),
        }
        self.memory.last = Some(seen);
    }

    fn as_in_use(&mut self) {
        if self.memory.reported.take().is_some() {
            info!("the revocation lists of {} are those in force again", self.path.display());
            self.publisher.lists_failed(None);
        }
    }

    fn take(&mut self, lists: Revocations, seen: &Seen) {
        info!("{} from {} in force", lists.describe(), self.path.display());
        self.publisher.revoke(Arc::new(lists));
        self.memory.used = Some(seen.clone());
        self.memory.reported = None;
    }

    /// Once for each content, when it is the same at two polls in a row.
    fn complain(&mut self, fault: String, seen: &Seen) {
        let settled = self.memory.last.as_ref() == Some(seen);
        if !settled || self.memory.reported.as_ref() == Some(seen) {
            return;
        }
        self.memory.reported = Some(seen.clone());
        match &self.memory.used {
            None => error!(
                "the revocation lists (identity.crl) cannot be used: {fault}; mesh connections are refused until they can: \
                 mend the file, or leave the setting out"
            ),
            Some(_) => error!("the revocation lists cannot be used: {fault}; those in force stay"),
        }
        self.publisher.lists_failed(Some(fault));
    }

    /// Old lists go on to revoke what they name, and know nothing newer: somebody must be told, once.
    fn mind_the_age(&mut self) {
        let Some(next) = self.publisher.revoked().0.and_then(|lists| lists.next_update) else { return };
        if self.clock.now() > next && self.memory.outdated.replace(next) != Some(next) {
            warn!(
                "a revocation list of {} was to be replaced by {}: what it revokes stays refused, what was revoked since is \
                 not known; put a new one there",
                self.path.display(),
                rfc3339::print(next)
            );
        }
    }
}

fn hash(text: &[u8]) -> [u8; 32] {
    digest(&SHA256, text).as_ref().try_into().unwrap_or_default()
}
