//! Keeps the addresses of the registry's names fresh: asks for each when its time to live has passed, and for all at once
//! where a connection goes to an address that no service has but a name might have by now.

mod questions;
mod schedule;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::dns::{Answer, Dns, Found};
use crate::live::Publisher;
use questions::{Answered, Questions};
use schedule::Schedule;

/// Least time between two rounds, so that connections to unknown addresses cannot flood DNS.
const PAUSE: Duration = Duration::from_millis(250);
/// Least time between two questions for a name, but in a round that a connection waits for.
const SHORTEST: Duration = Duration::from_secs(1);
/// Longest time to the next question for a name that got no answer.
const RETRY: Duration = Duration::from_secs(5);

/// Asks for the names of the registry in force.
#[derive(Debug)]
pub(crate) struct Resolver {
    publisher: Publisher,
    dns: Arc<Dns>,
    /// The setting `dns.refresh`: the longest time between two questions for a name.
    longest: Duration,
    last: StdMutex<HashMap<String, Last>>,
    last_round: Mutex<Option<Round>>,
}

/// The last answer about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Last {
    asked: Instant,
    /// When to ask again.
    due: Instant,
    trouble: Option<Trouble>,
}

/// Why a name has no fresh address. Each is told once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Unknown,
    Failed,
}

/// When all names were asked for.
#[derive(Debug, Clone, Copy)]
struct Round {
    began: Instant,
    ended: Instant,
}

impl Resolver {
    /// `longest` is the longest time between two questions for a name.
    pub(crate) fn new(publisher: Publisher, dns: Dns, longest: Duration) -> Arc<Self> {
        let dns = Arc::new(dns);
        Arc::new(Self { publisher, dns, longest, last: StdMutex::default(), last_round: Mutex::new(None) })
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
            sleep_until(last.ended + PAUSE).await;
        }
        let began = Instant::now();
        self.dns.look_anew().await;
        let mut questions = Questions::new(Arc::clone(&self.dns));
        questions.add(self.names());
        while !questions.is_idle() {
            self.learn(questions.answered().await);
        }
        *last_round = Some(Round { began, ended: Instant::now() });
    }

    /// Asks for each name when it is due, and for new ones at once, until stopped.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut snapshot = self.publisher.subscribe();
        let mut version = None;
        let mut schedule = Schedule::default();
        let mut questions = Questions::new(Arc::clone(&self.dns));
        loop {
            let published = snapshot.borrow_and_update().version;
            if version.replace(published) != Some(published) {
                self.sync(&mut schedule);
            }
            questions.add(schedule.take_due(Instant::now()));
            tokio::select! {
                () = stop.cancelled() => return,
                changed = snapshot.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                answers = questions.answered(), if !questions.is_idle() => {
                    for (name, due) in self.learn(answers) {
                        schedule.set(&name, due);
                    }
                }
                () = sleep_until(schedule.next().unwrap_or_else(far_away)) => {}
            }
        }
    }

    fn names(&self) -> Vec<String> {
        self.publisher.current().snapshot.registry.names_to_resolve().to_vec()
    }

    /// Takes names in and out as the registry has them now. What is known of others is forgotten.
    fn sync(&self, schedule: &mut Schedule) {
        let names = self.names();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        schedule.keep(&names);
        last.retain(|name, _| schedule.contains(name));
        let now = Instant::now();
        for name in &names {
            schedule.add(name, last.get(name).map_or(now, |last| last.due));
        }
        drop(last);
        self.publisher.forget_names_but(|name| schedule.contains(name));
    }

    /// Puts what is new in force. When to ask again, by name.
    fn learn(&self, answers: Vec<Answered>) -> Vec<(String, Instant)> {
        let known = self.publisher.addresses_now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = HashMap::new();
        let mut due = Vec::with_capacity(answers.len());
        for Answered { name, asked, answer } in answers {
            let before = last.get(&name).cloned();
            if let Some(later) = before.as_ref().filter(|before| before.asked > asked) {
                due.push((name, later.due));
                continue;
            }
            let addresses = known.get(&name);
            let trouble = tell(&name, &answer, addresses.is_some(), before.and_then(|last| last.trouble));
            let again = Instant::now() + self.wait(&answer);
            last.insert(name.clone(), Last { asked, due: again, trouble });
            if let Answer::Found(found) = answer {
                let now = with_addresses(found, addresses.map(Vec::as_slice).unwrap_or_default());
                if addresses != Some(&now) {
                    debug!(%name, addresses = ?now, "name resolved");
                    fresh.insert(name.clone(), now);
                }
            }
            due.push((name, again));
        }
        drop((last, known)); // so that what is known need not be copied
        self.publisher.learn(fresh);
        due
    }

    /// How long to wait before the next question.
    fn wait(&self, answer: &Answer) -> Duration {
        match answer {
            Answer::Found(Found { holds_for: Some(time), .. }) => (*time).max(SHORTEST).min(self.longest),
            Answer::Found(_) => self.longest,
            Answer::Unknown | Answer::Failed(_) => RETRY.min(self.longest),
        }
    }
}

/// Says once what is the matter with a name. Its last addresses stay: a failing resolver must not take the services with
/// it, and one that forgets a name may find it again.
fn tell(name: &str, answer: &Answer, has_addresses: bool, before: Option<Trouble>) -> Option<Trouble> {
    let trouble = match answer {
        Answer::Found(_) => None,
        Answer::Unknown => Some(Trouble::Unknown),
        Answer::Failed(_) => Some(Trouble::Failed),
    };
    if trouble == before {
        return trouble;
    }
    match answer {
        Answer::Found(_) => info!(%name, "name resolves again"),
        Answer::Unknown if has_addresses => {
            warn!(%name, "name does not exist any more; its last addresses stay in use");
        }
        Answer::Unknown => warn!(%name, "name does not exist; the service has no endpoint yet"),
        Answer::Failed(error) if has_addresses => {
            info!(%name, %error, "name not resolved; its last addresses stay in use");
        }
        Answer::Failed(error) => warn!(%name, %error, "name not resolved; the service has no endpoint yet"),
    }
    trouble
}

/// The addresses in order, each once. Of a family whose question failed those of before are kept.
fn with_addresses(found: Found, before: &[IpAddr]) -> Vec<IpAddr> {
    let kept = |v4: bool| before.iter().copied().filter(|address| address.is_ipv4() == v4).collect();
    let mut addresses = found.v4.unwrap_or_else(|| kept(true));
    addresses.extend(found.v6.unwrap_or_else(|| kept(false)));
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Never, for all that anybody waits for.
fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(24 * 60 * 60)
}

#[cfg(test)]
mod tests;
