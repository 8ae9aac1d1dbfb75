//! The files that DestinationRules name: read when a connection first needs them, watched from then on, forgotten when no
//! rule in force names them any more. A change is taken whole or not at all; a fault leaves the last good contents in use.
//!
//! Polls their contents, as the identity's files are: it works on every mount.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use pillion_mesh::registry::Registry;
use pillion_mesh::resource::ClientFiles;
use pillion_mesh::wire::rfc3339;
use serde::Serialize;
use tokio::sync::{Mutex as TurnMutex, OnceCell};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, info};

use super::material::{Content, Roots, Shown, Text};
use crate::files::{read_bounded, warn_of_readers};
use crate::live::LiveSnapshot;
use crate::tls::Clock;
use crate::tls::revocations::Revocations;

/// How often the files are read. A change counts when two reads in a row agree: somebody may be in the middle of writing.
const POLL: Duration = Duration::from_millis(400);

/// The longest file: revocation lists of a large authority are some megabytes.
const LIMIT: u64 = 16 << 20;

/// All files that connections have needed.
#[derive(Debug, Default)]
pub(super) struct Files {
    roots: Shelf<Roots>,
    revocations: Shelf<Revocations>,
    shown: Shelf<Shown>,
    of_system: OnceCell<Arc<Roots>>,
}

/// How one file, or certificate and key together, fares; for `/certs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FileState {
    /// Where they are: files, or `the system`.
    pub(crate) paths: Vec<String>,
    /// What is in use of them; none where no good one was read ever.
    pub(crate) holds: Option<String>,
    /// When that was read; the system's roots are read once.
    pub(crate) loaded: Option<String>,
    /// The end of the certificate's validity, where they are our own certificate and key.
    pub(crate) not_after: Option<String>,
    /// Why what is there now is not in use.
    pub(crate) last_error: Option<String>,
}

impl Files {
    /// # Errors
    /// The file's fault, where no good one was read ever. So for all here.
    pub(super) async fn roots(&self, path: &str) -> Result<Arc<Roots>, String> {
        self.roots.get(vec![path.to_owned()]).await
    }

    pub(super) async fn revocations(&self, path: &str) -> Result<Arc<Revocations>, String> {
        self.revocations.get(vec![path.to_owned()]).await
    }

    pub(super) async fn shown(&self, client: &ClientFiles) -> Result<Arc<Shown>, String> {
        self.shown.get(paths_of(client)).await
    }

    /// The system's roots, read once; asked for again as long as there are none.
    pub(super) async fn roots_of_system(&self) -> Result<Arc<Roots>, String> {
        let read = || async {
            let read = spawn_blocking(Roots::of_system).await;
            read.unwrap_or_else(|fault| Err(fault.to_string())).map(Arc::new)
        };
        self.of_system.get_or_try_init(read).await.map(Arc::clone)
    }

    /// Never ends.
    pub(super) async fn watch(&self, mut snapshot: LiveSnapshot, clock: &Clock) {
        snapshot.mark_changed();
        let mut named = Named::default();
        loop {
            sleep(POLL).await;
            if snapshot.has_changed().unwrap_or_default() {
                let published = Arc::clone(&snapshot.borrow_and_update());
                named = Named::by(&published.snapshot.registry);
            }
            self.roots.look(&named.roots).await;
            self.revocations.look(&named.revocations).await;
            self.shown.look(&named.shown).await;
            self.shown.mind_the_expiry(clock.now());
        }
    }

    pub(super) fn states(&self) -> Vec<FileState> {
        let of_system = self.of_system.get().map(|roots| FileState {
            paths: vec![roots.whence.clone()],
            holds: Some(roots.describe()),
            loaded: None,
            not_after: None,
            last_error: None,
        });
        let files = [self.roots.states(), self.revocations.states(), self.shown.states()].concat();
        of_system.into_iter().chain(files).collect()
    }
}

/// The files that the rules in force name.
#[derive(Debug, Default)]
struct Named {
    roots: BTreeSet<Vec<String>>,
    revocations: BTreeSet<Vec<String>>,
    shown: BTreeSet<Vec<String>>,
}

impl Named {
    fn by(registry: &Registry) -> Self {
        let mut named = Self::default();
        for how in registry.originations() {
            named.roots.extend(how.ca_certificates.iter().map(|path| vec![path.clone()]));
            named.revocations.extend(how.ca_crl.iter().map(|path| vec![path.clone()]));
            named.shown.extend(how.client.iter().map(paths_of));
        }
        named
    }
}

fn paths_of(client: &ClientFiles) -> Vec<String> {
    vec![client.certificate.clone(), client.key.clone()]
}

/// The files of one kind, by their paths. Clones share them.
#[derive(Debug)]
struct Shelf<C> {
    items: Arc<Mutex<BTreeMap<Vec<String>, Item<C>>>>,
    /// First reads take turns, so that connections that come together read once.
    turn: Arc<TurnMutex<()>>,
}

impl<C> Clone for Shelf<C> {
    fn clone(&self) -> Self {
        Self { items: Arc::clone(&self.items), turn: Arc::clone(&self.turn) }
    }
}

impl<C> Default for Shelf<C> {
    fn default() -> Self {
        Self { items: Arc::default(), turn: Arc::default() }
    }
}

/// A hash of all contents, or the fault that reading them met.
type Seen = Result<[u8; 32], String>;

#[derive(Debug)]
struct Item<C> {
    /// What is in use.
    used: Option<Used<C>>,
    /// What the last look saw.
    last: Seen,
    /// What was complained about, and in which words.
    fault: Option<(Seen, String)>,
}

#[derive(Debug)]
struct Used<C> {
    content: Arc<C>,
    seen: Seen,
    loaded: SystemTime,
    expiry_told: bool,
}

impl<C: Content> Shelf<C> {
    async fn get(&self, paths: Vec<String>) -> Result<Arc<C>, String> {
        if let Some(known) = self.known(&paths) {
            return known;
        }
        let turn = Arc::clone(&self.turn).lock_owned().await;
        if let Some(known) = self.known(&paths) {
            return known;
        }
        // A task of its own: a caller that gives up must not make the next one read beside a disk that hangs.
        let shelf = self.clone();
        let read = tokio::spawn(async move {
            let answer = shelf.read_first(paths).await;
            drop(turn);
            answer
        });
        read.await.unwrap_or_else(|fault| Err(fault.to_string()))
    }

    async fn read_first(&self, paths: Vec<String>) -> Result<Arc<C>, String> {
        let (seen, texts) = read_aside(paths.clone()).await;
        let mut item = Item { used: None, last: seen.clone(), fault: None };
        item.take(&paths, seen, texts.and_then(|texts| C::parse(&paths, &texts)));
        let answer = item.answer();
        self.lock().insert(paths, item);
        answer
    }

    fn known(&self, paths: &[String]) -> Option<Result<Arc<C>, String>> {
        self.lock().get(paths).map(Item::answer)
    }

    /// Forgets what nobody names, and reads the rest again.
    async fn look(&self, named: &BTreeSet<Vec<String>>) {
        self.lock().retain(|paths, _| named.contains(paths));
        let all: Vec<Vec<String>> = self.lock().keys().cloned().collect();
        for paths in all {
            let (seen, texts) = read_aside(paths.clone()).await;
            let counts = self.lock().get_mut(&paths).is_some_and(|item| item.counts(&paths, &seen));
            if !counts {
                continue;
            }
            let parsed = texts.and_then(|texts| C::parse(&paths, &texts));
            if let Some(item) = self.lock().get_mut(&paths) {
                item.take(&paths, seen, parsed);
            }
        }
    }

    /// Nobody here can renew a certificate, so somebody must be told, once, when it has ended.
    fn mind_the_expiry(&self, now: SystemTime) {
        for (paths, item) in self.lock().iter_mut() {
            let Some(used) = &mut item.used else { continue };
            let ended = used.content.not_after().filter(|not_after| *not_after < now);
            if let Some(not_after) = ended
                && !std::mem::replace(&mut used.expiry_told, true)
            {
                let until = rfc3339::print(not_after);
                error!("the certificate of {} EXPIRED at {until}: put a new one there", paths.join(" and "));
            }
        }
    }

    fn states(&self) -> Vec<FileState> {
        self.lock().iter().map(|(paths, item)| item.state(paths)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<String>, Item<C>>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Content> Item<C> {
    /// What a connection gets.
    fn answer(&self) -> Result<Arc<C>, String> {
        match (&self.used, &self.fault) {
            (Some(used), _) => Ok(Arc::clone(&used.content)),
            (None, Some((_, fault))) => Err(fault.clone()),
            (None, None) => Err("it was not read yet".to_owned()),
        }
    }

    /// Whether what is there now is to be taken or complained about: it is new, and the same as at the last look.
    fn counts(&mut self, paths: &[String], seen: &Seen) -> bool {
        let settled = self.last == *seen;
        self.last = seen.clone();
        if self.used.as_ref().is_some_and(|used| used.seen == *seen) {
            if self.fault.take().is_some() {
                info!("{} as it is in use again", paths.join(" and "));
            }
            return false;
        }
        settled && self.fault.as_ref().is_none_or(|(told, _)| told != seen)
    }

    fn take(&mut self, paths: &[String], seen: Seen, parsed: Result<C, String>) {
        let names = paths.join(" and ");
        match parsed {
            Ok(content) => {
                info!("{} from {names}", content.describe());
                if content.not_after().is_some() {
                    paths.iter().skip(1).for_each(|key| warn_of_readers(Path::new(key)));
                }
                let (content, loaded) = (Arc::new(content), SystemTime::now());
                self.used = Some(Used { content, seen, loaded, expiry_told: false });
                self.fault = None;
            }
            Err(fault) => {
                match &self.used {
                    None => error!("{fault}: connections that need it are refused until it is mended"),
                    Some(used) => {
                        error!("{fault}: what was read at {} stays in use", rfc3339::print(used.loaded));
                    }
                }
                self.fault = Some((seen, fault));
            }
        }
    }

    fn state(&self, paths: &[String]) -> FileState {
        let used = self.used.as_ref();
        FileState {
            paths: paths.to_vec(),
            holds: used.map(|used| used.content.describe()),
            loaded: used.map(|used| rfc3339::print(used.loaded)),
            not_after: used.and_then(|used| used.content.not_after()).map(rfc3339::print),
            last_error: self.fault.as_ref().map(|(_, fault)| fault.clone()),
        }
    }
}

/// Reads on a thread that may wait for a slow disk; connections are served meanwhile.
async fn read_aside(paths: Vec<String>) -> (Seen, Result<Vec<Text>, String>) {
    let read = spawn_blocking(move || {
        let read =
            |path: &String| read_bounded(Path::new(path), LIMIT).map_err(|fault| format!("{path}: {fault}"));
        let texts = paths.iter().map(read).collect::<Result<Vec<_>, _>>();
        (texts.as_ref().map(|texts| hash(texts)).map_err(Clone::clone), texts)
    });
    read.await.unwrap_or_else(|fault| (Err(fault.to_string()), Err(fault.to_string())))
}

fn hash(texts: &[Text]) -> [u8; 32] {
    let mut hash = Context::new(&SHA256);
    for text in texts {
        hash.update(&text.len().to_be_bytes());
        hash.update(text);
    }
    hash.finish().as_ref().try_into().unwrap_or_default()
}
