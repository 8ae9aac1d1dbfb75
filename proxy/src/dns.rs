//! Asks for the addresses of one name, and how long they hold: the hosts file, DNS, and for a name that neither knows
//! whatever else the system has (`getaddrinfo` with its modules).
//!
//! The system's files are read anew when they change. Nothing is kept: when to ask again is [`crate::resolver`]'s.

mod files;

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use files::Known;
pub(crate) use files::Places;

/// Longest wait for the answers about one name.
const PATIENCE: Duration = Duration::from_secs(3);
/// Threads that wait for the system's answers at once. It may take its time, and cannot be told to stop.
const SYSTEM_AT_ONCE: usize = 8;

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It has addresses.
    Found(Found),
    /// There is no such name, or it has no address.
    Unknown,
    /// Nobody could say, in words.
    Failed(String),
}

/// The addresses of a name by family; `None` where the question for that family failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) v4: Option<Vec<IpAddr>>,
    pub(crate) v6: Option<Vec<IpAddr>>,
    /// How long they hold; `None` where nobody says.
    pub(crate) holds_for: Option<Duration>,
}

/// Asks for names.
#[derive(Debug)]
pub(crate) struct Dns {
    known: Mutex<Known>,
    system: Option<Arc<Semaphore>>,
}

impl Dns {
    /// As the system is set up.
    pub(crate) fn system() -> Self {
        Self::new(Places::system(), true)
    }

    /// `asks_system`: whether `getaddrinfo` is asked for what the files and DNS do not know.
    pub(crate) fn new(places: Places, asks_system: bool) -> Self {
        let system = asks_system.then(|| Arc::new(Semaphore::new(SYSTEM_AT_ONCE)));
        Self { known: Mutex::new(Known::new(places)), system }
    }

    /// Takes nothing of what the files said before for the questions that follow.
    pub(crate) async fn look_anew(&self) {
        self.known.lock().await.forget_look();
    }

    /// The addresses of a name.
    pub(crate) async fn ask(&self, name: &str) -> Answer {
        let config = self.known.lock().await.current().await;
        if let Some(addresses) = config.hosts.get(name) {
            return Answer::Found(Found::of_system(addresses.iter().copied()));
        }
        let answer = match &config.dns {
            Some(dns) => timeout(PATIENCE, dns.ask(name)).await.unwrap_or_else(|_elapsed| too_late()),
            None => Answer::Unknown,
        };
        match (answer, &self.system) {
            (Answer::Unknown, Some(system)) => ask_system(name, system, config.dns.is_some()).await,
            (answer, _) => answer,
        }
    }
}

impl Dns {
    /// What the hosts file, or else DNS, calls an address: of several names the shortest. Whoever runs the name server may say
    /// what it likes: a hint for people, never a proof.
    pub(crate) async fn name_of(&self, address: IpAddr) -> Option<String> {
        let config = self.known.lock().await.current().await;
        let of_hosts = config.hosts.iter().filter(|(_, addresses)| addresses.contains(&address));
        let shortest = of_hosts.map(|(name, _)| name).min_by_key(|name| (name.len(), *name)).cloned();
        if shortest.is_some() {
            return shortest;
        }
        let dns = config.dns.as_ref()?;
        let answer =
            timeout(PATIENCE, dns.resolver.lookup(Name::from(address), RecordType::PTR)).await.ok()?;
        let answer = answer.ok()?;
        let names = answer.answers().iter().filter_map(|record| match &record.data {
            RData::PTR(name) => Some(name.to_utf8().trim_end_matches('.').to_owned()),
            _ => None,
        });
        names.filter(|name| !name.is_empty()).min_by_key(|name| (name.len(), name.clone()))
    }
}

fn too_late() -> Answer {
    Answer::Failed(format!("no answer within {PATIENCE:?}"))
}

/// `dns_knew_nothing`: then a fault means that there is no such name.
async fn ask_system(name: &str, system: &Arc<Semaphore>, dns_knew_nothing: bool) -> Answer {
    let name = name.to_owned();
    let slots = Arc::clone(system);
    let asked = async {
        // Held by the thread, which goes on when nobody waits any more.
        let slot = slots.acquire_owned().await.ok()?;
        let look_up = move || {
            let _slot = slot;
            (name.as_str(), 0)
                .to_socket_addrs()
                .map(|found| found.map(|found| found.ip()).collect::<Vec<_>>())
        };
        spawn_blocking(look_up).await.ok()
    };
    match timeout(PATIENCE, asked).await {
        Ok(Some(Ok(addresses))) if !addresses.is_empty() => {
            Answer::Found(Found::of_system(addresses.into_iter()))
        }
        Ok(Some(Err(fault))) if !dns_knew_nothing => Answer::Failed(fault.to_string()),
        Ok(Some(_)) => Answer::Unknown,
        Ok(None) => Answer::Failed("the system could not be asked".to_owned()),
        Err(_elapsed) => too_late(),
    }
}

impl Found {
    fn of_system(addresses: impl Iterator<Item = IpAddr>) -> Self {
        let (v4, v6) = addresses.map(|address| address.to_canonical()).partition(IpAddr::is_ipv4);
        Self { v4: Some(v4), v6: Some(v6), holds_for: None }
    }
}

/// The name servers of a `resolv.conf`.
#[derive(Debug)]
struct Servers {
    resolver: TokioResolver,
    search: Vec<Name>,
    /// A name with so many dots is asked for as it is first.
    dots: usize,
}

/// What one question brought.
enum Records {
    Some(Vec<IpAddr>, Instant),
    None,
    /// A server said that it does not know.
    Refused(String),
    /// Nobody answered.
    Silence(String),
}

impl Servers {
    /// Tries the names that a short one may stand for in the order of `resolv.conf(5)`; the first that has addresses is
    /// the one. Where nobody answers, no other name is taken for it.
    async fn ask(&self, name: &str) -> Answer {
        let mut refused = None;
        for name in self.candidates(name) {
            match self.ask_full(name).await {
                Ok(Some(found)) => return Answer::Found(found),
                Ok(None) => {}
                Err(Records::Refused(why)) => refused = Some(why),
                Err(Records::Silence(why)) => return Answer::Failed(why),
                Err(Records::Some(..) | Records::None) => {}
            }
        }
        refused.map_or(Answer::Unknown, Answer::Failed)
    }

    fn candidates(&self, name: &str) -> Vec<Name> {
        // Names of docker-compose services have `_`.
        let Ok(name) = Name::from_ascii(name) else { return Vec::new() };
        let mut full = name.clone();
        full.set_fqdn(true);
        let completed = self.search.iter().filter_map(|domain| name.clone().append_domain(domain).ok());
        if usize::from(name.num_labels()) > self.dots {
            [full].into_iter().chain(completed).collect()
        } else {
            completed.chain([full]).collect()
        }
    }

    /// Both families at once. One that fails leaves the other.
    async fn ask_full(&self, name: Name) -> Result<Option<Found>, Records> {
        let (v4, v6) = tokio::join!(
            self.resolver.lookup(name.clone(), RecordType::A),
            self.resolver.lookup(name, RecordType::AAAA)
        );
        match (records(v4), records(v6)) {
            (Records::Some(v4, until), Records::Some(v6, other)) => {
                Ok(Some(Found::until(until.min(other), Some(v4), Some(v6))))
            }
            (Records::Some(v4, until), Records::None) => {
                Ok(Some(Found::until(until, Some(v4), Some(Vec::new()))))
            }
            (Records::None, Records::Some(v6, until)) => {
                Ok(Some(Found::until(until, Some(Vec::new()), Some(v6))))
            }
            (Records::Some(v4, until), _) => Ok(Some(Found::until(until, Some(v4), None))),
            (_, Records::Some(v6, until)) => Ok(Some(Found::until(until, None, Some(v6)))),
            (Records::None, Records::None) => Ok(None),
            (silence @ Records::Silence(_), _) | (_, silence @ Records::Silence(_)) => Err(silence),
            (refused, Records::None) | (_, refused) => Err(refused),
        }
    }
}

impl Found {
    fn until(until: Instant, v4: Option<Vec<IpAddr>>, v6: Option<Vec<IpAddr>>) -> Self {
        Self { v4, v6, holds_for: Some(until.saturating_duration_since(Instant::now())) }
    }
}

fn records(answer: Result<Lookup, NetError>) -> Records {
    match answer {
        Ok(found) => {
            let addresses = found.answers().iter().filter_map(|record| record.data.ip_addr());
            let addresses: Vec<IpAddr> = addresses.map(|address| address.to_canonical()).collect();
            if addresses.is_empty() { Records::None } else { Records::Some(addresses, found.valid_until()) }
        }
        Err(fault) if fault.is_no_records_found() || fault.is_nx_domain() => Records::None,
        Err(NetError::Dns(DnsError::ResponseCode(code))) => {
            Records::Refused(format!("the name server answers {code}"))
        }
        Err(fault) => Records::Silence(fault.to_string()),
    }
}

#[cfg(test)]
mod tests;
