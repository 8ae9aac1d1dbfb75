//! What a run has found, in a few sentences with one figure each: what stands first, for who reads no further. Pure.

use super::peer::Kind;
use super::results::{Cell, Results, Section};
use super::table::number;

/// The contestant that the sentences are about.
const OURS: &str = "pillion";

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// A number with its unit.
    pub(crate) figure: String,
    /// What it is the price of.
    pub(crate) of: String,
    /// What was counted, and how many times as much as the least it is.
    pub(crate) text: String,
    /// What other proxies need of the same: their titles, and multiples of the figure.
    pub(crate) others: Vec<(String, String)>,
}

/// The findings of a run, as far as it has asked for them, the most asked first.
pub(crate) fn findings(results: &Results) -> Vec<Finding> {
    let all = [handshake, inbound, connection, message, byte, idle];
    all.iter().filter_map(|find| find(results)).collect()
}

fn handshake(results: &Results) -> Option<Finding> {
    let section = section(results, "handshake")?;
    let both = |name: &str| {
        let cell = section.cell(name)?;
        Some(cell.median("cpuServer")? + cell.median("cpuClient")?)
    };
    let (full, plain) = (both("usual")?, both("plaintext")?);
    let mut text = format!(
        "of processor time, client and server together: {} times a plain connection ({} µs)",
        times(full, plain),
        number(plain)
    );
    for (name, what) in [("resumed", "a resumed one takes"), ("rsa-2048", "with RSA 2048 it is")] {
        if let Some(other) = both(name) {
            text.push_str(&format!("; {what} {} µs", number(other)));
        }
    }
    Some(Finding {
        figure: format!("{} µs", number(full)),
        of: "a full mutual handshake".to_owned(),
        text,
        others: Vec::new(),
    })
}

fn inbound(results: &Results) -> Option<Finding> {
    let section = section(results, "inbound-full")?;
    let cell = section.cell(OURS)?;
    let spent = cell.median("cpuProxies")?;
    let floor = cell
        .median("ofFloor")
        .map(|floor| format!(", {} times the TLS library and a relay", times(floor, 1.0)));
    Some(Finding {
        figure: format!("{} µs", number(spent)),
        of: "a handshake at the server's sidecar".to_owned(),
        text: format!("of its processor time, for a full one{}", floor.unwrap_or_default()),
        others: others(results, section, "cpuProxies", spent),
    })
}

fn connection(results: &Results) -> Option<Finding> {
    let section = section(results, "connection")?;
    let spent = section.cell(OURS)?.median("cpuProxies")?;
    Some(Finding {
        figure: format!("{} µs", number(spent)),
        of: "a connection through two sidecars".to_owned(),
        text: format!("of both sidecars' processor time{}", of_relay(section, "cpuProxies", spent)),
        others: others(results, section, "cpuProxies", spent),
    })
}

fn message(results: &Results) -> Option<Finding> {
    let section = section(results, "round-trip-1")?;
    // On a machine that was not quiet the sidecars may seem to save time.
    let added = section.cell(OURS)?.median("addedP50").filter(|added| *added > 0.0)?;
    Some(Finding {
        figure: format!("{} µs", number(added)),
        of: "a message of 64 bytes and its answer".to_owned(),
        text: format!("later than without sidecars{}", of_relay(section, "addedP50", added)),
        others: others(results, section, "addedP50", added),
    })
}

fn byte(results: &Results) -> Option<Finding> {
    let section = section(results, "bulk-to-app-1")?;
    let spent = section.cell(OURS)?.median("nsPerByteProxies")?;
    Some(Finding {
        figure: format!("{} ns", number(spent)),
        of: "a byte in bulk".to_owned(),
        text: format!("of both sidecars' processor time{}", of_relay(section, "nsPerByteProxies", spent)),
        others: others(results, section, "nsPerByteProxies", spent),
    })
}

fn idle(results: &Results) -> Option<Finding> {
    let section = results.sections.iter().find(|section| section.id.starts_with("idle-"))?;
    let held = section.cell(OURS)?.median("perConnectionInbound")?;
    let start = self::section(results, "memory-start")
        .and_then(|section| section.cell(OURS)?.median("memoryInbound"))
        .map(|start| format!(", which starts with {} MiB", number(start)));
    Some(Finding {
        figure: format!("{} KiB", number(held)),
        of: "an idle connection".to_owned(),
        text: format!("of memory of the server's sidecar{}", start.unwrap_or_default()),
        others: others(results, section, "perConnectionInbound", held),
    })
}

fn section<'a>(results: &'a Results, id: &str) -> Option<&'a Section> {
    results.sections.iter().find(|section| section.id == id)
}

fn of_relay(section: &Section, figure: &str, ours: f64) -> String {
    let relay = section.cell("relay").and_then(|cell| cell.median(figure)).filter(|relay| *relay > 0.0);
    relay.map(|relay| format!(", {} times a relay without TLS", times(ours, relay))).unwrap_or_default()
}

/// What the other proxies need of the same, as multiples of ours.
fn others(results: &Results, section: &Section, figure: &str, ours: f64) -> Vec<(String, String)> {
    let is_peer = |cell: &&Cell| {
        let mut contestants = results.contestants.iter();
        contestants.any(|contestant| contestant.kind == Kind::Peer && contestant.name == cell.contestant)
    };
    let told = |cell: &Cell| {
        let theirs = cell.median(figure).filter(|theirs| *theirs > 0.0 && ours > 0.0)?;
        Some((cell.title.clone(), times(theirs, ours)))
    };
    section.cells.iter().filter(is_peer).filter_map(told).collect()
}

/// Two digits say enough of a multiple.
fn times(one: f64, other: f64) -> String {
    let multiple = if other > 0.0 { one / other } else { 0.0 };
    if multiple >= 10.0 { format!("{multiple:.0}") } else { format!("{multiple:.1}") }
}

#[cfg(test)]
mod tests {
    use super::super::results::Contestant;
    use super::*;

    fn section(id: &str, cells: &[(&str, &[(&'static str, f64)])]) -> Section {
        let cells = cells.iter().map(|(name, figures)| {
            let mut cell = Cell::new(name, &name.to_uppercase());
            for (figure, value) in *figures {
                cell.figure(figure, vec![*value]);
            }
            cell
        });
        Section { id: id.to_owned(), title: String::new(), text: String::new(), cells: cells.collect() }
    }

    fn results(sections: Vec<Section>) -> Results {
        let kinds = [("pillion", Kind::Pillion), ("envoy", Kind::Peer), ("relay", Kind::Floor)];
        let contestants = kinds.map(|(name, kind)| Contestant {
            name: name.to_owned(),
            title: name.to_owned(),
            kind,
            version: String::new(),
            cannot: vec![],
        });
        Results { contestants: contestants.into(), sections, ..Results::default() }
    }

    #[test]
    fn a_handshake_is_told_as_a_multiple_of_a_plain_connection() {
        let spent = |server, client| [("cpuServer", server), ("cpuClient", client)];
        let found = findings(&results(vec![section(
            "handshake",
            &[
                ("plaintext", &spent(20.0, 30.0)),
                ("usual", &spent(250.0, 300.0)),
                ("resumed", &spent(150.0, 150.0)),
            ],
        )]));
        let [finding] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(finding.figure, "550 µs");
        assert_eq!(
            finding.text,
            "of processor time, client and server together: 11 times a plain connection (50.0 µs); a resumed one takes 300 µs"
        );
    }

    #[test]
    fn a_connection_is_compared_with_the_relay_and_with_peers_alone() {
        let found = findings(&results(vec![section(
            "connection",
            &[
                ("relay", &[("cpuProxies", 100.0)]),
                ("pillion", &[("cpuProxies", 400.0)]),
                ("pillion-default", &[("cpuProxies", 500.0)]),
                ("envoy", &[("cpuProxies", 480.0)]),
            ],
        )]));
        assert_eq!(found[0].text, "of both sidecars' processor time, 4.0 times a relay without TLS");
        assert_eq!(found[0].others, [("ENVOY".to_owned(), "1.2".to_owned())]);
    }

    #[test]
    fn time_that_sidecars_seem_to_save_is_not_told() {
        let added = |ours, theirs| {
            findings(&results(vec![section(
                "round-trip-1",
                &[("pillion", &[("addedP50", ours)]), ("envoy", &[("addedP50", theirs)])],
            )]))
        };
        assert_eq!(added(-17.0, 30.0), []);
        assert_eq!(added(20.0, -3.0)[0].others, []);
        assert_eq!(added(20.0, 30.0)[0].others[0].1, "1.5");
    }

    #[test]
    fn what_was_not_asked_is_not_told() {
        assert_eq!(findings(&results(vec![])), []);
        assert_eq!(findings(&results(vec![section("connection", &[("envoy", &[("cpuProxies", 1.0)])])])), []);
    }
}
