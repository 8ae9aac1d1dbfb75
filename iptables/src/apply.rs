//! Makes the kernel's rules what is wished for, and back: `apply`, `clean`, `show`.
//!
//! What is there is read first; only the difference is installed, each family by one atomic `iptables-restore --noflush`.
//! A failure half-way leaves what was there before. What the rules are is left to [`crate::plan`], and their text to
//! [`crate::render`].

use thiserror::Error;

use crate::arguments::{BackendChoice, Ipv6};
use crate::backend::{Backend, BackendError, Backends, Kind};
use crate::capture::Capture;
use crate::command::CommandError;
use crate::plan::{Family, Plan, Table};
use crate::render::{self, CHAIN_PREFIX, NOTE_ADDRESS_ADDED, NOTE_TABLE_ADDED, RuleSet};
use crate::routes::{self, Entry, RouteError};
use crate::{say, warn};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

#[derive(Debug, Error)]
pub(crate) enum ApplyError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("{family} rules: {error}")]
    Rules { family: Family, error: CommandError },
    #[error("{family} routing: {error}")]
    Routing { family: Family, error: RouteError },
    #[error("ip6tables is not installed, and --ipv6 on asks for it: install it, or take --ipv6 auto")]
    NoIpv6Programs,
    #[error("there is no IPv6 here, and --ipv6 on asks for it: {0}; take --ipv6 auto")]
    NoIpv6(&'static str),
}

/// Installs the rules.
///
/// # Errors
/// Names the program that failed, what it said and the likely cure; then the rules are as they were before.
pub(crate) fn apply(capture: &Capture, ipv6: Ipv6, choice: BackendChoice) -> Result<(), ApplyError> {
    let backends = Backends::find()?;
    let (backend, because) = backends.choose(choice)?;
    say(&format!("iptables back end: {} ({because})", backend.kind));
    let with_ipv6 = ipv6_is_wanted(ipv6, backend)?;
    let address_is_ours = backends.iter().any(has_address_note);
    let mut done = Vec::new();
    for family in FAMILIES {
        let plan = (family == Family::V4 || with_ipv6).then(|| Plan::new(capture, family));
        match install(backend, family, plan.as_ref(), address_is_ours) {
            Ok(before) => done.push((family, before)),
            Err(error) if family == Family::V6 && ipv6 != Ipv6::On => {
                warn(&format!("IPv6 is NOT captured: {error}"));
            }
            Err(error) => {
                for (family, before) in &done {
                    roll_back(backend, *family, before);
                }
                return Err(error);
            }
        }
    }
    for other in backends.others(backend) {
        remove_rules(other)?;
    }
    Ok(())
}

/// Removes the rules from every back end, and what else `apply` added.
///
/// # Errors
/// Names the program that failed, what it said and the likely cure.
pub(crate) fn clean(choice: BackendChoice) -> Result<(), ApplyError> {
    let backends = Backends::find()?;
    // Says so at once where rules cannot be read, rather than that there are none.
    backends.choose(choice)?;
    let address_is_ours = backends.iter().any(has_address_note);
    let mut changed = false;
    for backend in backends.iter() {
        changed |= remove_rules(backend)?;
    }
    for family in FAMILIES {
        changed |= routes::set_routing(family, &[]).map_err(|error| ApplyError::Routing { family, error })?;
    }
    if address_is_ours {
        routes::set_proxy_address(false)
            .map_err(|error| ApplyError::Routing { family: Family::V6, error })?;
    }
    say(if changed { "removed" } else { "nothing to remove" });
    Ok(())
}

/// Prints the rules that the kernel has, with their counters, and the routing.
///
/// # Errors
/// Where rules cannot be read.
pub(crate) fn show() -> Result<(), ApplyError> {
    let backends = Backends::find()?;
    backends.choose(BackendChoice::Auto)?;
    let mut anything = false;
    for (backend, family) in backends.iter().flat_map(|backend| FAMILIES.map(|family| (backend, family))) {
        let saved = backend.save(family, &["-c"]).unwrap_or_default();
        if let Some(ours) = pillions_lines(&saved) {
            say(&format!("{family}, {}\n{ours}", backend.kind));
            anything = true;
        }
    }
    for family in FAMILIES {
        for entry in routes::routing(family) {
            say(&entry.command(family, "add"));
        }
    }
    if backends.iter().any(has_address_note) {
        say(&routes::proxy_address_command("add"));
    }
    if !anything {
        say("no rules of pillion are installed");
    }
    Ok(())
}

/// What `apply` would do in a fresh network namespace; reads nothing.
pub(crate) fn apply_in_words(capture: &Capture, families: &[Family]) -> String {
    let mut text = String::new();
    for family in families {
        let plan = Plan::new(capture, *family);
        let input = render::restore_input(&RuleSet::default(), &RuleSet::of_plan(&plan)).unwrap_or_default();
        text += &format!("# {family}: rules for {} --noflush\n{input}", program(*family));
        for entry in Entry::of_mode(plan.mode) {
            text += &format!("# {}\n", entry.command(*family, "add"));
        }
        if *family == Family::V6 {
            text += &format!("# {}\n", routes::proxy_address_command("add"));
        }
    }
    text
}

/// What `clean` would do.
///
/// # Errors
/// Where rules cannot be read.
pub(crate) fn clean_in_words(choice: BackendChoice) -> Result<String, ApplyError> {
    let backends = Backends::find()?;
    backends.choose(choice)?;
    let mut text = String::new();
    for (backend, family) in backends.iter().flat_map(|backend| FAMILIES.map(|family| (backend, family))) {
        let installed = backend.installed(family).unwrap_or_default();
        if let Some(input) = render::restore_input(&installed, &RuleSet::default()) {
            text += &format!("# {family}: rules for {}\n{input}", backend.commit_in_words(family));
        }
    }
    for family in FAMILIES {
        for entry in routes::routing(family) {
            text += &format!("# {}\n", entry.command(family, "del"));
        }
    }
    if backends.iter().any(has_address_note) {
        text += &format!("# {}\n", routes::proxy_address_command("del"));
    }
    Ok(text)
}

/// The families that `apply` would see to, without asking programs.
pub(crate) fn families(ipv6: Ipv6) -> Vec<Family> {
    match (ipv6, routes::ipv6_is_absent()) {
        (Ipv6::On, _) | (Ipv6::Auto, None) => FAMILIES.to_vec(),
        (Ipv6::Off, _) | (Ipv6::Auto, Some(_)) => vec![Family::V4],
    }
}

/// # Errors
/// Where IPv6 is asked for and cannot be had.
fn ipv6_is_wanted(ipv6: Ipv6, backend: &Backend) -> Result<bool, ApplyError> {
    match (ipv6, routes::ipv6_is_absent(), backend.has(Family::V6)) {
        (Ipv6::Off, ..) => Ok(false),
        (_, None, true) => Ok(true),
        (Ipv6::On, Some(why), _) => Err(ApplyError::NoIpv6(why)),
        (Ipv6::On, None, false) => Err(ApplyError::NoIpv6Programs),
        (Ipv6::Auto, Some(why), _) => {
            say(&format!("IPv6: skipped, {why}"));
            Ok(false)
        }
        (Ipv6::Auto, None, false) => {
            warn("IPv6 is NOT captured: ip6tables is not installed");
            Ok(false)
        }
    }
}

/// What there is of pillion in one family.
struct State {
    rules: RuleSet,
    routing: Vec<Entry>,
}

/// Brings one family to its plan or, without a plan, to nothing; gives back what was there before.
///
/// # Errors
/// The family is then as it was before.
fn install(
    backend: &Backend,
    family: Family,
    plan: Option<&Plan>,
    address_is_ours: bool,
) -> Result<State, ApplyError> {
    let rules = match backend.installed(family) {
        Ok(rules) => rules,
        // A family that is not wanted and cannot be read has nothing to be removed.
        Err(_) if plan.is_none() => RuleSet::default(),
        Err(error) => return Err(ApplyError::Rules { family, error }),
    };
    let before = State { rules, routing: routes::routing(family) };
    let mut wanted = State { rules: RuleSet::default(), routing: Vec::new() };
    if let Some(plan) = plan {
        wanted = State { rules: RuleSet::of_plan(plan), routing: Entry::of_mode(plan.mode) };
        take_notes(&mut wanted.rules, &before.rules, backend.kind);
        if family == Family::V6 && (address_is_ours || !routes::has_proxy_address()) {
            wanted.rules.add_note(Table::Nat, NOTE_ADDRESS_ADDED);
        }
    }
    match reach(backend, family, &before, &wanted) {
        Ok(changed) => {
            report(family, plan.is_some(), changed);
            Ok(before)
        }
        Err(error) => {
            roll_back(backend, family, &before);
            Err(error)
        }
    }
}

/// Notes among the rules what `clean` must know: which tables were not there before.
fn take_notes(wanted: &mut RuleSet, before: &RuleSet, kind: Kind) {
    for table in Table::ALL {
        let is_new = kind == Kind::Nft && !before.0.contains_key(&table);
        if is_new || before.has_note(table, NOTE_TABLE_ADDED) {
            wanted.add_note(table, NOTE_TABLE_ADDED);
        }
    }
}

fn has_address_note(backend: &Backend) -> bool {
    backend.installed(Family::V6).is_ok_and(|rules| rules.has_note(Table::Nat, NOTE_ADDRESS_ADDED))
}

fn report(family: Family, wanted: bool, changed: bool) {
    match (wanted, changed) {
        (true, true) => say(&format!("{family}: rules installed")),
        (true, false) => say(&format!("{family}: rules are there already, nothing to change")),
        (false, true) => say(&format!("{family}: rules removed")),
        (false, false) => {}
    }
}

/// Leads from one state to another; says whether there was anything to do. A failure may leave it half-way.
fn reach(backend: &Backend, family: Family, from: &State, to: &State) -> Result<bool, ApplyError> {
    let failed = |error| ApplyError::Routing { family, error };
    let mut changed = reach_rules(backend, family, &from.rules, &to.rules)?;
    changed |= routes::set_routing(family, &to.routing).map_err(failed)?;
    if to.rules.has_note(Table::Nat, NOTE_ADDRESS_ADDED) {
        changed |= routes::set_proxy_address(true).map_err(failed)?;
    } else if from.rules.has_note(Table::Nat, NOTE_ADDRESS_ADDED) {
        changed |= routes::set_proxy_address(false).map_err(failed)?;
    }
    Ok(changed)
}

fn reach_rules(backend: &Backend, family: Family, from: &RuleSet, to: &RuleSet) -> Result<bool, ApplyError> {
    let Some(input) = render::restore_input(from, to) else { return Ok(false) };
    backend
        .test(family, &input)
        .and_then(|()| backend.commit(family, &input))
        .and_then(|()| backend.drop_added_tables(family, from, to))
        .map_err(|error| ApplyError::Rules { family, error })?;
    Ok(true)
}

/// Leads back, from wherever a failure has left it.
fn roll_back(backend: &Backend, family: Family, before: &State) {
    let led_back = backend
        .installed(family)
        .map_err(|error| ApplyError::Rules { family, error })
        .and_then(|rules| reach(backend, family, &State { rules, routing: routes::routing(family) }, before));
    if let Err(error) = led_back {
        warn(&format!("what was changed before the failure could not be put back: {error}"));
    }
}

/// Removes pillion's rules from a back end; says whether there were any.
fn remove_rules(backend: &Backend) -> Result<bool, ApplyError> {
    let mut changed = false;
    for family in FAMILIES {
        // What cannot be read, such as a back end that this kernel does not have, holds nothing.
        let installed = backend.installed(family).unwrap_or_default();
        changed |= reach_rules(backend, family, &installed, &RuleSet::default())?;
    }
    Ok(changed)
}

/// The rules that have to do with pillion, below the name of their table.
fn pillions_lines(saved: &str) -> Option<String> {
    let mut lines = Vec::new();
    let mut table = None;
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = Some(name);
        } else if line.contains(" -A ") && line.contains(CHAIN_PREFIX) {
            lines.extend(table.take().map(str::to_owned));
            lines.push(format!("  {line}"));
        }
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    }
}
