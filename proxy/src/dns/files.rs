//! The system's files about names: `hosts` and `resolv.conf`, read anew when they change.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Servers;
use crate::reload::signature::Signature;

/// How often the files are looked at, at most.
const LOOK: Duration = Duration::from_secs(1);
/// A file beyond this many bytes is not read.
const MAX_BYTES: u64 = 4 << 20;
/// The most that one name server is waited for, and how often it is asked again.
const MAX_TIMEOUT: Duration = Duration::from_millis(900);
const MAX_RETRIES: usize = 1;

/// Where the files are.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) hosts: PathBuf,
    pub(crate) resolv_conf: PathBuf,
    /// Where name servers listen: 53 but in tests.
    pub(crate) port: u16,
}

impl Places {
    pub(crate) fn system() -> Self {
        Self { hosts: "/etc/hosts".into(), resolv_conf: "/etc/resolv.conf".into(), port: 53 }
    }
}

/// What the files say.
#[derive(Debug, Default)]
pub(super) struct Config {
    /// By name in lower case.
    pub(super) hosts: HashMap<String, Vec<IpAddr>>,
    /// `None` where no name server is known.
    pub(super) dns: Option<Arc<Servers>>,
}

/// What the files said last.
#[derive(Debug)]
pub(super) struct Known {
    places: Places,
    signature: Option<[Signature; 2]>,
    /// Whether two looks apart agreed: what is written within one tick of the kernel's clock looks the same.
    settled: bool,
    looked: Option<Instant>,
    config: Arc<Config>,
}

impl Known {
    pub(super) fn new(places: Places) -> Self {
        Self { places, signature: None, settled: false, looked: None, config: Arc::default() }
    }

    /// Looks at the files again next time, however short ago that was done.
    pub(super) fn forget_look(&mut self) {
        self.looked = None;
    }

    /// What the files say now, or said a moment ago.
    pub(super) async fn current(&mut self) -> Arc<Config> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            self.look().await;
            self.looked = Some(Instant::now());
        }
        self.config.clone()
    }

    async fn look(&mut self) {
        let places = self.places.clone();
        let look = move || [Signature::of(&places.hosts), Signature::of(&places.resolv_conf)];
        let now = spawn_blocking(look).await.ok();
        let differs = now != self.signature;
        if differs || !self.settled {
            self.read().await;
        }
        self.settled = !differs;
        self.signature = now;
    }

    /// A file that cannot be used leaves what it said before.
    async fn read(&mut self) {
        let Places { hosts, resolv_conf, .. } = self.places.clone();
        let read = spawn_blocking(move || (read_text(&hosts), read_text(&resolv_conf)));
        let Ok((hosts, resolv_conf)) = read.await else { return };
        let hosts = match hosts {
            Ok(text) => parse_hosts(&text),
            Err(fault) => {
                debug!(file = %self.places.hosts.display(), %fault, "no hosts file");
                HashMap::new()
            }
        };
        let servers = resolv_conf.map_err(|fault| fault.to_string());
        let dns = match servers.and_then(|text| servers_of(&text, self.places.port)) {
            Ok(servers) => Some(Arc::new(servers)),
            Err(fault) => {
                let (file, known) = (self.places.resolv_conf.display(), self.config.dns.is_some());
                if known {
                    warn!(%file, %fault, "no name servers; those of before are asked");
                } else {
                    debug!(%file, %fault, "no name servers; the system is asked for names");
                }
                self.config.dns.clone()
            }
        };
        self.config = Arc::new(Config { hosts, dns });
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(MAX_BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// `hosts(5)`: an address and its names, a line; `#` begins a comment.
fn parse_hosts(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        for name in words {
            let of_name = hosts.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default();
            if !of_name.contains(&address) {
                of_name.push(address);
            }
        }
    }
    hosts
}

fn servers_of(resolv_conf: &str, port: u16) -> Result<Servers, String> {
    let (config, mut options) = parse_resolv_conf(resolv_conf).map_err(|fault| fault.to_string())?;
    let mut search: Vec<_> = config.search().to_vec();
    if search.is_empty() {
        search.extend(config.domain().cloned());
    }
    let mut servers = config.name_servers().to_vec();
    servers
        .iter_mut()
        .flat_map(|server| &mut server.connections)
        .for_each(|connection| connection.port = port);
    options.cache_size = 0; // when to ask again is decided by the resolver, from the times to live
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = options.timeout.min(MAX_TIMEOUT);
    options.attempts = options.attempts.min(MAX_RETRIES);
    let dots = options.ndots;
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let resolver = builder.with_options(options).build().map_err(|fault| fault.to_string())?;
    Ok(Servers { resolver, search, dots })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_names_addresses() {
        let text = "127.0.0.1 localhost\n# 10.0.0.9 commented\n10.0.0.1\tBackend backend.example. # main\nfd00::1 backend\n\
                    10.0.0.1 backend\nnothing here\n";
        let hosts = parse_hosts(text);
        let of = |name: &str| hosts.get(name).cloned().unwrap_or_default();
        let addresses = ["10.0.0.1", "fd00::1"].map(|address| address.parse::<IpAddr>().unwrap());
        assert_eq!(of("backend"), addresses);
        assert_eq!(of("backend.example"), addresses[..1]);
        assert_eq!(of("commented"), [] as [IpAddr; 0]);
        assert_eq!(of("here"), [] as [IpAddr; 0]);
    }

    #[tokio::test]
    async fn without_a_name_server_there_is_none_to_ask() {
        assert!(servers_of("search example\n", 53).is_err());
        let servers =
            servers_of("nameserver 127.0.0.1\nsearch a.example b.example\noptions ndots:2\n", 53).unwrap();
        assert_eq!((servers.search.len(), servers.dots), (2, 2));
    }
}
