//! Keeps the addresses of the registry's names fresh: asks DNS at intervals, and at once where a connection goes to
//! an address that no service has but a name might have by now.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pillion_mesh::registry::Addresses;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::live::Publisher;

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Least time between two rounds, so that connections to unknown addresses cannot flood DNS.
const PAUSE: Duration = Duration::from_millis(250);
/// Questions under way at once; each takes a thread of the blocking pool.
const AT_ONCE: usize = 16;

/// Asks DNS for the names of the registry in force.
#[derive(Debug)]
pub(crate) struct Resolver {
    publisher: Publisher,
    last_round: Mutex<Option<Round>>,
}

/// When DNS was asked.
#[derive(Debug, Clone, Copy)]
struct Round {
    began: Instant,
    ended: Instant,
}

impl Resolver {
    pub(crate) fn new(publisher: Publisher) -> Arc<Self> {
        Arc::new(Self { publisher, last_round: Mutex::new(None) })
    }

    /// Returns once all names were resolved by questions asked after the call: what was true a moment ago does not tell
    /// whether an address is a stranger's. Calls at the same time share a round.
    pub(crate) async fn refresh(&self) {
        let asked = Instant::now();
        let mut last_round = self.last_round.lock().await;
        if let Some(last) = *last_round {
            if last.began >= asked {
                return;
            }
            tokio::time::sleep_until(last.ended + PAUSE).await;
        }
        let began = Instant::now();
        self.round().await;
        *last_round = Some(Round { began, ended: Instant::now() });
    }

    /// Refreshes every `interval`, and when the registry's names change, until stopped.
    pub(crate) async fn run(self: Arc<Self>, interval: Duration, stop: CancellationToken) {
        let mut snapshot = self.publisher.subscribe();
        let mut names = self.names();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(interval) => self.refresh().await,
                changed = snapshot.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    snapshot.mark_unchanged();
                    let now = self.names();
                    if now != names {
                        names = now;
                        self.refresh().await;
                    }
                }
            }
        }
    }

    fn names(&self) -> Vec<String> {
        self.publisher.current().snapshot.registry.names_to_resolve().to_vec()
    }

    async fn round(&self) {
        let known = self.publisher.addresses_now();
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let mut questions = JoinSet::new();
        for name in self.names() {
            let slots = slots.clone();
            questions.spawn(async move {
                let _slot = slots.acquire_owned().await;
                let answer = resolve(&name).await;
                (name, answer)
            });
        }
        let mut fresh = Addresses::new();
        while let Some(Ok((name, answer))) = questions.join_next().await {
            let before = known.get(&name);
            match answer {
                Ok(addresses) => {
                    if before != Some(&addresses) {
                        debug!(%name, ?addresses, "name resolved");
                    }
                    fresh.insert(name, addresses);
                }
                Err(error) => match before {
                    // The last answer is kept: a failing resolver must not take the services with it.
                    Some(last) => {
                        debug!(%name, %error, "name not resolved; its last addresses stay in use");
                        fresh.insert(name, last.clone());
                    }
                    None => warn!(%name, %error, "name not resolved; the service has no endpoint yet"),
                },
            }
        }
        self.publisher.addresses(fresh);
    }
}

async fn resolve(name: &str) -> std::io::Result<Vec<IpAddr>> {
    let lookup = timeout(PATIENCE, tokio::net::lookup_host((name, 0)));
    let answer = lookup.await.map_err(|_elapsed| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    let mut addresses: Vec<IpAddr> = answer.map(|address| address.ip().to_canonical()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}
