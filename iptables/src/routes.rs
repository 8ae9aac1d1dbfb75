//! What interception needs besides rules: for TPROXY a route that brings the app's answers back to the proxy, for IPv6 the
//! address ::6 on lo.
//!
//! Routes and routing rules carry a protocol number by which `clean` knows them. An address has no such thing: whether
//! `apply` added it is noted among the rules ([`crate::render::NOTE_ADDRESS_ADDED`]).

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::capture::Mode;
use crate::command::{self, CommandError};
use crate::plan::{Family, PROXY_SOURCE_V6};

/// The routing protocol number (`ip route … proto`) that says: made by pillion. Nobody is registered for it.
const PROTOCOL: &str = "133";
/// The addresses of this thread's network namespace, unlike `/proc/net`, which is the main thread's.
const IPV6_ADDRESSES: &str = "/proc/thread-self/net/if_inet6";

#[derive(Debug, Error)]
pub(crate) enum RouteError {
    #[error("the program `ip` is not installed: {0} needs it; install iproute2")]
    NotInstalled(&'static str),
    #[error("`{command}` printed what is no JSON ({error}): install iproute2 in place of a smaller `ip`")]
    NotJson { command: String, error: serde_json::Error },
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// The program `ip`.
#[derive(Debug)]
pub(crate) struct Ip(PathBuf);

impl Ip {
    pub(crate) fn find() -> Option<Self> {
        command::find("ip").map(Self)
    }

    /// Runs a command line that begins with `ip`.
    fn run(&self, command: &str) -> Result<(), RouteError> {
        let arguments: Vec<_> = command.split(' ').skip(1).collect();
        command::run(&self.0, &arguments, "").map(drop).map_err(RouteError::Command)
    }

    fn list<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<Vec<T>, RouteError> {
        let printed = command::run(&self.0, arguments, "")?;
        if printed.trim().is_empty() {
            return Ok(Vec::new());
        }
        serde_json::from_str(&printed)
            .map_err(|error| RouteError::NotJson { command: command::in_words(&self.0, arguments), error })
    }
}

/// One of the two things that TPROXY needs: packets with the mark look into the table, and there all is for this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    Rule { mark: u32, table: u32 },
    Route { table: u32 },
}

impl Entry {
    /// What the mode needs.
    pub(crate) fn of_mode(mode: Mode) -> Vec<Self> {
        match mode {
            Mode::Redirect => Vec::new(),
            Mode::Tproxy { mark, table } => {
                vec![Self::Rule { mark: mark.0, table: table.0 }, Self::Route { table: table.0 }]
            }
        }
    }

    /// The command that adds or deletes it.
    pub(crate) fn command(self, family: Family, verb: &str) -> String {
        let option = option(family);
        match self {
            Self::Rule { mark, table } => {
                format!("ip {option} rule {verb} fwmark {mark:#x} lookup {table} protocol {PROTOCOL}")
            }
            Self::Route { table } => {
                format!("ip {option} route {verb} local default dev lo table {table} proto {PROTOCOL}")
            }
        }
    }
}

/// What `apply` made of this, and nobody else.
pub(crate) fn routing(family: Family) -> Vec<Entry> {
    // An `ip` that cannot list it, such as busybox's, cannot have made it either.
    let present = Ip::find().and_then(|ip| ip.entries(family).ok()).unwrap_or_default();
    present.into_iter().filter(|(_, ours)| *ours).map(|(entry, _)| entry).collect()
}

/// Adds what is missing, and removes what an earlier `apply` left otherwise; says whether there was anything to do. What
/// somebody else made alike is used and left alone.
pub(crate) fn set_routing(family: Family, wanted: &[Entry]) -> Result<bool, RouteError> {
    let stale: Vec<_> = routing(family).into_iter().filter(|entry| !wanted.contains(entry)).collect();
    if stale.is_empty() && wanted.is_empty() {
        return Ok(false);
    }
    let ip = Ip::find().ok_or(RouteError::NotInstalled("TPROXY mode"))?;
    for entry in &stale {
        ip.run(&entry.command(family, "del"))?;
    }
    let present = ip.entries(family)?;
    let missing: Vec<_> =
        wanted.iter().filter(|entry| !present.iter().any(|(other, _)| other == *entry)).collect();
    for entry in &missing {
        ip.run(&entry.command(family, "add"))?;
    }
    Ok(!stale.is_empty() || !missing.is_empty())
}

impl Ip {
    /// The rules and routes of the form that TPROXY needs, each with whether pillion made it.
    fn entries(&self, family: Family) -> Result<Vec<(Entry, bool)>, RouteError> {
        let rules: Vec<ListedRule> = self.list(&["-N", "-j", option(family), "rule", "show"])?;
        let routes: Vec<ListedRoute> =
            self.list(&["-N", "-j", option(family), "route", "show", "table", "all"])?;
        let rules = rules.iter().filter_map(|rule| Some((rule.entry()?, is_ours(rule.protocol.as_deref()))));
        let routes =
            routes.iter().filter_map(|route| Some((route.entry()?, is_ours(route.protocol.as_deref()))));
        Ok(rules.chain(routes).collect())
    }
}

/// A line of `ip -j rule`.
#[derive(Debug, Deserialize)]
struct ListedRule {
    fwmark: Option<String>,
    fwmask: Option<String>,
    table: Option<String>,
    protocol: Option<String>,
    iif: Option<String>,
    #[serde(default)]
    src: String,
}

impl ListedRule {
    fn entry(&self) -> Option<Entry> {
        let simple = self.src == "all" && self.fwmask.is_none() && self.iif.is_none();
        let mark = u32::from_str_radix(self.fwmark.as_deref()?.strip_prefix("0x")?, 16).ok()?;
        let table = self.table.as_deref()?.parse().ok()?;
        simple.then_some(Entry::Rule { mark, table })
    }
}

/// A line of `ip -j route`.
#[derive(Debug, Deserialize)]
struct ListedRoute {
    r#type: Option<String>,
    #[serde(default)]
    dst: String,
    dev: Option<String>,
    table: Option<String>,
    protocol: Option<String>,
}

impl ListedRoute {
    fn entry(&self) -> Option<Entry> {
        let local = self.r#type.as_deref() == Some("local") || self.r#type.as_deref() == Some("2");
        let everything = self.dst == "default" && self.dev.as_deref() == Some("lo");
        let table = self.table.as_deref()?.parse().ok()?;
        (local && everything).then_some(Entry::Route { table })
    }
}

fn is_ours(protocol: Option<&str>) -> bool {
    protocol == Some(PROTOCOL)
}

fn option(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

/// Whether lo has the address that the proxy binds towards its app.
pub(crate) fn has_proxy_address() -> bool {
    std::fs::read_to_string(IPV6_ADDRESSES).is_ok_and(|addresses| lists_proxy_address(&addresses))
}

/// A line is: address in hexadecimal, index, prefix, scope, flags, interface.
fn lists_proxy_address(addresses: &str) -> bool {
    let wanted = format!("{:032x}", u128::from(PROXY_SOURCE_V6.addr()));
    addresses.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(wanted.as_str()) && words.next_back() == Some("lo")
    })
}

/// Adds or removes the address; says whether there was anything to do.
pub(crate) fn set_proxy_address(wanted: bool) -> Result<bool, RouteError> {
    if has_proxy_address() == wanted {
        return Ok(false);
    }
    let ip = Ip::find().ok_or(RouteError::NotInstalled("IPv6 interception"))?;
    ip.run(&proxy_address_command(if wanted { "add" } else { "del" })).map(|()| true)
}

/// The command that adds or deletes the address. Without `nodad` it could not be bound for a moment: the kernel would first
/// ask whether another host has it.
pub(crate) fn proxy_address_command(verb: &str) -> String {
    let at_once = if verb == "add" { " nodad" } else { "" };
    format!("ip -6 address {verb} {PROXY_SOURCE_V6} dev lo{at_once}")
}

/// Why there is no IPv6 in this network namespace; none where there is.
pub(crate) fn ipv6_is_absent() -> Option<&'static str> {
    let Ok(interfaces) = std::fs::read_dir("/proc/sys/net/ipv6/conf") else {
        return Some("the kernel has no IPv6");
    };
    let switched_on = interfaces
        .flatten()
        .filter(|interface| interface.file_name() != "all" && interface.file_name() != "default")
        .any(|interface| {
            std::fs::read_to_string(interface.path().join("disable_ipv6")).is_ok_and(|off| off.trim() == "0")
        });
    (!switched_on).then_some("IPv6 is switched off on every interface (net.ipv6.conf.*.disable_ipv6 = 1)")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::there("00000000000000000000000000000006 01 80 80 80       lo\n", true)]
    #[case::only_localhost("00000000000000000000000000000001 01 80 10 80       lo\n", false)]
    #[case::on_another_interface("00000000000000000000000000000006 02 80 80 80     eth0\n", false)]
    #[case::none("", false)]
    fn the_proxys_address_counts_on_lo_only(#[case] addresses: &str, #[case] there: bool) {
        assert_eq!(lists_proxy_address(addresses), there);
    }

    #[rstest]
    #[case::ours(r#"[{"src":"all","fwmark":"0x539","table":"133","protocol":"133"}]"#, Some((1337, 133)))]
    #[case::by_hand(r#"[{"src":"all","fwmark":"0x539","table":"133"}]"#, Some((1337, 133)))]
    #[case::with_mask(r#"[{"src":"all","fwmark":"0x539","fwmask":"0xfff","table":"133"}]"#, None)]
    #[case::of_one_source(r#"[{"src":"10.0.0.1","fwmark":"0x539","table":"133"}]"#, None)]
    #[case::without_mark(r#"[{"priority":0,"src":"all","table":"255"}]"#, None)]
    fn only_a_plain_rule_of_the_mark_counts(#[case] listed: &str, #[case] wanted: Option<(u32, u32)>) {
        let rules: Vec<ListedRule> = serde_json::from_str(listed).unwrap();
        let wanted = wanted.map(|(mark, table)| Entry::Rule { mark, table });
        assert_eq!(rules[0].entry(), wanted);
    }
}
