//! The checks on proxies by themselves and on what they have in common; those on who talks to whom are in [`super::edges`].

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

use super::facts::{Asked, Certificate, Facts};
use super::{Check, Kind, Outcome, Report, edges};
use crate::finding::Severity;
use crate::reason::Reason;
use crate::wire::rfc3339;
use crate::words::Elapsed;

/// A root that ends sooner is told of.
const ROOT_LASTS: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Clocks that are further apart are told of.
const CLOCKS_NEAR: Duration = Duration::from_secs(10);
/// Clocks that are further apart refuse new certificates: a CA dates them back by so much.
const CLOCKS_FAR: Duration = Duration::from_secs(120);
/// Faults and findings that are told one by one.
const MOST_TOLD: usize = 5;

/// Judges what was asked. `version` is that of the tool; `ca` is what a CA said of itself, where one was asked.
#[must_use]
pub fn judge(asked: &[Asked], version: &str, ca: Option<&Result<String, String>>) -> Report {
    let mut checks: Vec<Check> = asked.iter().map(answers).collect();
    let proxies: Vec<&Facts> = asked.iter().filter_map(|asked| asked.facts.as_deref().ok()).collect();
    for facts in &proxies {
        checks.extend([ready(facts), certificate_valid(facts), roots_valid(facts), clock(facts)]);
        checks.extend([ca_reachable(facts), policy_loaded(facts), no_findings(facts)]);
        checks.extend(captured(facts));
        checks.extend(own_traffic(facts));
    }
    if !proxies.is_empty() {
        checks.push(versions(&proxies, version));
        checks.push(roots_common(&proxies));
        checks.extend(edges::judge(&proxies));
    }
    checks.extend(ca.map(ca_ready));
    Report::of(checks)
}

fn answers(asked: &Asked) -> Check {
    match &asked.facts {
        Ok(facts) => {
            let told = format!("{} answers at {}", facts.name(), asked.url);
            Check::new(Kind::ProxyAnswers, Outcome::Passed, told)
        }
        Err(fault) => Check::new(Kind::ProxyAnswers, Outcome::Failed, fault.clone()),
    }
}

fn ready(facts: &Facts) -> Check {
    let readiness = &facts.readiness;
    let (outcome, word) = match readiness.ready {
        true => (Outcome::Passed, "ready"),
        false => (Outcome::Failed, "not ready"),
    };
    Check::new(Kind::ProxyReady, outcome, format!("{} is {word}: {}", facts.name(), readiness.because))
}

fn versions(proxies: &[&Facts], own: &str) -> Check {
    let seen: BTreeSet<&str> = proxies.iter().map(|facts| facts.config.version.as_str()).collect();
    if seen.iter().all(|version| *version == own) {
        return Check::new(Kind::VersionsEqual, Outcome::Passed, format!("all are of version {own}"));
    }
    let of = |facts: &&Facts| format!("{} {}", facts.name(), facts.config.version);
    let seen: Vec<String> = proxies.iter().map(of).collect();
    Check::new(Kind::VersionsEqual, Outcome::Warned, format!("this tool is {own}, {}", seen.join(", ")))
}

fn certificate_valid(facts: &Facts) -> Check {
    let (name, certs) = (facts.name(), &facts.certs);
    let Some(leaf) = certs.chain.first() else {
        return Check::new(Kind::CertificateValid, Outcome::Failed, format!("{name} has no certificate"));
    };
    let until = rfc3339::print(leaf.not_after);
    if !certs.valid {
        let told = format!(
            "the certificate of {name} is not valid: from {} to {until}, and its clock shows {}",
            rfc3339::print(leaf.not_before),
            rfc3339::print(certs.now)
        );
        return Check::new(Kind::CertificateValid, Outcome::Failed, told);
    }
    let left = leaf.not_after.duration_since(certs.now).unwrap_or_default();
    let lifetime = leaf.not_after.duration_since(leaf.not_before).unwrap_or_default();
    let outcome = if left < lifetime / 10 { Outcome::Warned } else { Outcome::Passed };
    let identity = certs.identity.as_deref().unwrap_or("no identity");
    let told = format!("{name} is {identity} until {until} ({} left)", Elapsed(left));
    Check::new(Kind::CertificateValid, outcome, told)
}

fn roots_valid(facts: &Facts) -> Check {
    let trust_domain = facts.config.settings.workload.trust_domain.as_str();
    let roots = facts.certs.bundles.get(trust_domain).map(Vec::as_slice).unwrap_or_default();
    let valid = roots.iter().filter(|root| root.valid);
    let name = facts.name();
    let Some(last) = valid.map(|root| root.not_after).max() else {
        let told = format!("{name} has no valid root of {trust_domain}");
        return Check::new(Kind::RootsValid, Outcome::Failed, told);
    };
    let left = last.duration_since(facts.certs.now).unwrap_or_default();
    let outcome = if left < ROOT_LASTS { Outcome::Warned } else { Outcome::Passed };
    let told = format!("{name} believes roots of {trust_domain} until {}", rfc3339::print(last));
    Check::new(Kind::RootsValid, outcome, told)
}

/// Each by the bundles of all others of its trust domain.
fn roots_common(proxies: &[&Facts]) -> Check {
    let mut strangers = Vec::new();
    let trust_domain = |facts: &Facts| facts.config.settings.workload.trust_domain.clone();
    for shows in proxies {
        let Some(top) = shows.certs.chain.last() else { continue };
        let own = trust_domain(shows);
        for believes in proxies.iter().filter(|other| trust_domain(other) == own) {
            let roots = believes.certs.bundles.get(own.as_str()).map(Vec::as_slice).unwrap_or_default();
            if !roots
                .iter()
                .any(|root| root.valid && signed(root.subject_key_id.as_deref(), &root.subject, top))
            {
                strangers.push(format!("{} does not believe {}", believes.name(), shows.name()));
            }
        }
    }
    if strangers.is_empty() {
        let told = match proxies {
            [only] => format!("{} believes itself; name more proxies by --proxy", only.name()),
            _ => "each believes the certificates of all others".to_owned(),
        };
        return Check::new(Kind::RootsCommon, Outcome::Passed, told);
    }
    Check::new(Kind::RootsCommon, Outcome::Failed, some(&strangers))
}

/// Whether a root has signed a certificate, by their key identifiers, or their names where these are missing.
fn signed(root_key: Option<&str>, root_name: &str, certificate: &Certificate) -> bool {
    match (root_key, certificate.authority_key_id.as_deref()) {
        (Some(own), Some(wanted)) => own == wanted,
        _ => root_name == certificate.issuer,
    }
}

fn clock(facts: &Facts) -> Check {
    let apart = |one: SystemTime, other: SystemTime| one.duration_since(other).ok();
    let (theirs, ours) = (facts.certs.now, facts.asked_at);
    let (far, word) = match (apart(theirs, ours), apart(ours, theirs)) {
        (Some(ahead), _) => (ahead, "ahead of"),
        (None, behind) => (behind.unwrap_or_default(), "behind"),
    };
    let outcome = match far {
        far if far <= CLOCKS_NEAR => Outcome::Passed,
        far if far <= CLOCKS_FAR => Outcome::Warned,
        _ => Outcome::Failed,
    };
    let name = facts.name();
    let told = match outcome {
        Outcome::Passed => format!("the clock of {name} agrees with ours"),
        _ => format!(
            "the clock of {name} is {} {word} ours: it shows {}, ours {}",
            Elapsed(far),
            rfc3339::print(theirs),
            rfc3339::print(ours)
        ),
    };
    Check::new(Kind::ClocksAgree, outcome, told)
}

fn ca_reachable(facts: &Facts) -> Check {
    let (name, renewals) = (facts.name(), &facts.certs.renewals);
    match (&renewals.last_error, renewals.next) {
        (Some(fault), _) => {
            let told = format!("{name} asked for a certificate and got none: {fault}");
            Check::new(Kind::CaReachable, Outcome::Failed, told)
        }
        (None, Some(next)) => {
            let told = format!("{name} got its certificate, and asks again at {}", rfc3339::print(next));
            Check::new(Kind::CaReachable, Outcome::Passed, told)
        }
        (None, None) => Check::new(Kind::CaReachable, Outcome::Passed, format!("{name} got its certificate")),
    }
}

fn ca_ready(ca: &Result<String, String>) -> Check {
    match ca {
        Ok(said) => Check::new(Kind::CaReady, Outcome::Passed, format!("the CA says: {said}")),
        Err(fault) => Check::new(Kind::CaReady, Outcome::Failed, fault.clone()),
    }
}

fn policy_loaded(facts: &Facts) -> Check {
    let (name, policy) = (facts.name(), &facts.config.policy);
    match &policy.last_error {
        Some(fault) => {
            let told = format!("{name} goes by what it loaded at {}: {fault}", policy.loaded);
            Check::new(Kind::PolicyLoaded, Outcome::Failed, told)
        }
        None => {
            let told = format!("{name} has the mesh folder of {}", policy.loaded);
            Check::new(Kind::PolicyLoaded, Outcome::Passed, told)
        }
    }
}

fn no_findings(facts: &Facts) -> Check {
    let findings = facts.config.policy.findings.iter().filter(|finding| finding.severity != Severity::Info);
    let worst = findings.clone().map(|finding| finding.severity).min();
    let outcome = match worst {
        Some(Severity::Error) => Outcome::Failed,
        Some(_) => Outcome::Warned,
        None => {
            let told = format!("{} finds nothing in it that is probably not meant", facts.name());
            return Check::new(Kind::NoFindings, Outcome::Passed, told);
        }
    };
    let told: Vec<String> =
        findings.map(|finding| format!("{} {}: {}", finding.code, finding.place, finding.message)).collect();
    Check::new(Kind::NoFindings, outcome, format!("{}: {}", facts.name(), some(&told)))
}

/// `None` where nothing is to be captured: a gateway, or explicit listeners.
fn captured(facts: &Facts) -> Option<Check> {
    let settings = &facts.config.settings;
    settings.inbound.capture.or(settings.outbound.capture)?;
    let name = facts.name();
    let check = |outcome, told| Some(Check::new(Kind::TrafficCaptured, outcome, told));
    if let Some(rules) = &facts.rules {
        let is_there = rules.contains("PILLION_");
        return if is_there {
            check(Outcome::Passed, format!("the rules of {name} are installed in its network namespace"))
        } else {
            check(Outcome::Failed, format!("no rules are installed in the network namespace of {name}"))
        };
    }
    let count = facts.connections.iter().filter(|record| record.original_destination.is_some()).count();
    if count > 0 {
        let told = format!("{} of {name} came by its rules", connections(count));
        check(Outcome::Passed, told)
    } else {
        let told = format!(
            "no connection of {name} came by its rules so far; ask in its network namespace as root to see the rules \
             themselves"
        );
        check(Outcome::Warned, told)
    }
}

fn own_traffic(facts: &Facts) -> Option<Check> {
    let settings = &facts.config.settings;
    settings.inbound.capture.or(settings.outbound.capture)?;
    let name = facts.name();
    let loops = facts.connections.iter().filter(|record| record.reason == Some(Reason::SelfLoop)).count();
    if loops > 0 {
        let told = format!("{} of {name} itself came back to it (self_loop)", connections(loops));
        return Some(Check::new(Kind::OwnTrafficExempt, Outcome::Failed, told));
    }
    let exempt = |rules: &String| rules.contains("--uid-owner") || rules.contains("--mark");
    match &facts.rules {
        Some(rules) if rules.contains("PILLION_OUTPUT") && !exempt(rules) => {
            let told = format!("no rule exempts the connections of {name} itself");
            Some(Check::new(Kind::OwnTrafficExempt, Outcome::Failed, told))
        }
        _ => {
            let told = format!("no connection of {name} itself came back to it");
            Some(Check::new(Kind::OwnTrafficExempt, Outcome::Passed, told))
        }
    }
}

/// `1 connection`, `12 connections`.
pub(super) fn connections(count: usize) -> String {
    format!("{count} {}", if count == 1 { "connection" } else { "connections" })
}

/// The first few, and how many more.
pub(super) fn some(all: &[String]) -> String {
    let mut told = all.get(..MOST_TOLD).unwrap_or(all).join("; ");
    if all.len() > MOST_TOLD {
        let _ = write!(told, "; and {} more", all.len() - MOST_TOLD);
    }
    told
}
