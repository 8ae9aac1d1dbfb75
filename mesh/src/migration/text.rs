//! The ports of a workload as a table, and under each who came without mutual TLS.

use std::fmt::{self, Display, Formatter};
use std::time::{Duration, SystemTime};

use super::{How, Judged, JudgedPort, Seen, Verdict, WatchedPeer};
use crate::wire::rfc3339;
use crate::words::{Columns, Elapsed, Escaped};

/// Peers that are told of each port.
const MOST_TOLD: usize = 20;

impl Display for Judged {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let watched = self.now.duration_since(self.since).unwrap_or_default();
        let since = rfc3339::print(self.since);
        write!(f, "{}, watched since {since} ({})", Escaped(&self.workload), Elapsed(watched))?;
        if self.ports.is_empty() {
            write!(f, "\n  no port is declared, and none was called")?;
        }
        let head = ["PORT", "SERVICE", "MODE", "MTLS", "WITHOUT", "REFUSED", "DRY RUN", "VERDICT"];
        let rows: Vec<[String; 8]> =
            [head.map(str::to_owned)].into_iter().chain(self.ports.iter().map(row)).collect();
        let table = Columns(&rows).to_string();
        let mut lines = table.lines();
        if !self.ports.is_empty() {
            write!(f, "\n  {}", lines.next().unwrap_or_default())?;
        }
        for (line, port) in lines.zip(&self.ports) {
            write!(f, "\n  {line}")?;
            for peer in port.port.peers.iter().take(MOST_TOLD) {
                write!(f, "\n      {}", Peer(peer, self.now))?;
            }
            let left_out = port.port.peers.len().saturating_sub(MOST_TOLD);
            if left_out > 0 {
                write!(f, "\n      and {left_out} more")?;
            }
            if let Some(unnamed) = &port.port.unnamed {
                write!(
                    f,
                    "\n      {} of others, for whose names there was no room",
                    connections(unnamed.connections)
                )?;
            }
        }
        match &self.other_ports {
            Some(others) => {
                write!(f, "\n  {} to further ports, not told apart", connections(others.connections))
            }
            None => Ok(()),
        }
    }
}

fn row(judged: &JudgedPort) -> [String; 8] {
    let JudgedPort { port, verdict, verdict_because } = judged;
    let count = |seen: Option<Seen>| seen.map_or(0, |seen| seen.connections).to_string();
    let shadow = port.shadow.as_ref().map_or_else(
        || "-".to_owned(),
        |shadow| match shadow.refused {
            Some(refused) => format!("{} refuses {}", shadow.mode, refused.connections),
            None => format!("{} refuses none", shadow.mode),
        },
    );
    let mark = match verdict {
        Verdict::Strict | Verdict::Safe => "√",
        Verdict::NotYet => "×",
        Verdict::NothingSeen | Verdict::NotLookedAt => "?",
    };
    [
        port.port.to_string(),
        port.service.as_ref().map_or_else(|| "-".to_owned(), |service| Escaped(service).to_string()),
        port.mode.to_string(),
        count(port.mutual_tls),
        count(port.without),
        count(port.refused),
        shadow,
        format!("{mark} {}", Escaped(verdict_because)),
    ]
}

/// One line of a peer, at this moment.
struct Peer<'p>(&'p WatchedPeer, SystemTime);

impl Display for Peer<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(peer, now) = self;
        write!(f, "{}: ", Escaped(&peer.called()))?;
        let how = match peer.how {
            How::Plaintext => "plaintext",
            How::OwnTls => "TLS of its own",
            How::Silent => "silent",
            How::NotLookedAt => "not looked at",
        };
        f.write_str(how)?;
        if let Some(looks_like) = &peer.looks_like {
            write!(f, " ({})", Escaped(looks_like))?;
        }
        for (what, seen) in
            [("", peer.without), ("refused ", peer.refused), ("by mutual TLS ", peer.mutual_tls)]
        {
            if let Some(seen) = seen {
                let first = rfc3339::print(seen.first);
                write!(
                    f,
                    ", {what}{} since {first}, last {}",
                    times(seen.connections),
                    ago(seen.last, *now)
                )?;
            }
        }
        match peer.open {
            0 => Ok(()),
            open => write!(f, ", {open} open"),
        }
    }
}

fn connections(count: u64) -> String {
    format!("{count} {}", if count == 1 { "connection" } else { "connections" })
}

fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

fn ago(at: SystemTime, now: SystemTime) -> String {
    match now.duration_since(at) {
        Ok(Duration::ZERO) | Err(_) => "now".to_owned(),
        Ok(since) => format!("{} ago", Elapsed(since)),
    }
}
