//! The life of the mesh's certificates, in hurried time: renewals, a CA that is away, a CA that crashes, a change of roots.
//! The frontend goes on calling the backend all the while, and no call may fail.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use pillion_mesh::wire::rfc3339;
use serde_json::Value;

use super::page::{Page, Seen};
use super::stage::Stage;
use super::traffic::Traffic;
use super::walk::Walk;
use crate::lab::{LabError, RunningSidecar, TRUST_DOMAIN, wait_until};

/// How many times as fast as the world's the time runs.
const FACTOR: u32 = 1440;

/// What an hour takes in the world's time.
const HOUR: Duration = Duration::from_millis(2_500);

/// How many hours a certificate lives.
const LIFE: u32 = 8;

/// More than anything here takes in the world's time: a root is known to all, or out of use, after a certificate's life and
/// what clocks may differ by.
const SOON: Duration = Duration::from_secs(60);

/// The time that this story's mesh lives in.
#[derive(Debug)]
pub(super) struct Hurry {
    origin: String,
}

impl Hurry {
    /// From now on.
    pub(super) fn now() -> Self {
        Self { origin: rfc3339::print(SystemTime::now()) }
    }

    /// As the CA's settings say it.
    pub(super) fn ca_settings(&self) -> String {
        let origin = &self.origin;
        format!(
            "workloadTtl: {{default: {LIFE}h, max: {LIFE}h}}
rotation: {{automatic: false, publishAhead: {LIFE}h}}
time: {{scale: {FACTOR}, origin: '{origin}'}}
"
        )
    }

    /// As a sidecar's flags say it.
    pub(super) fn proxy_args(&self) -> [String; 4] {
        ["--time-scale".to_owned(), FACTOR.to_string(), "--time-origin".to_owned(), self.origin.clone()]
    }
}

/// Tells all steps. Returns how many were as expected, of how many.
pub(super) fn tell(page: &Page, stage: &mut Stage) -> Result<(usize, usize), LabError> {
    let calls = Traffic::start(stage.caller());
    let mut walk = Walk::new(page);
    walk.step(
        "Certificates are renewed",
        "They live eight hours. An hour passes in two and a half seconds here.",
        "a new certificate for each sidecar by half its life",
        || renewed(stage),
    )?;
    walk.step(
        "The CA is away for an hour",
        "It is killed, and started again when an hour has passed in the mesh.",
        "the sidecars keep what is valid, and renew it when the CA is back",
        || an_hour_without_ca(stage),
    )?;
    walk.step(
        "A next root is published",
        "pillion-ca root prepare",
        "both sidecars trust two roots; the first one goes on signing",
        || next_root(stage),
    )?;
    walk.step(
        "It is told to sign at once",
        "pillion-ca root activate",
        "no: who has not asked for a certificate since does not know it yet",
        || too_early(stage),
    )?;
    walk.step(
        "The CA crashes (SIGKILL), is started again, and the next root signs",
        "pillion-ca root activate, again and again until it is allowed",
        "the same roots as before the crash, and certificates from the new one",
        || activated(stage),
    )?;
    walk.step(
        "The old root leaves the bundle",
        "pillion-ca root retire, again and again until nothing of it can be valid",
        "both sidecars trust the new root alone",
        || retired(stage),
    )?;
    walk.step(
        "Meanwhile the frontend called the backend",
        "Each call is a new connection with mutual TLS.",
        "not one failed call",
        || Ok(every_call(calls)),
    )?;
    Ok(walk.result())
}

fn renewed(stage: &Stage) -> Result<Seen, LabError> {
    let roots = Roots::of(stage)?;
    let before = Leaves::of(stage)?;
    let after = before.wait_for_other(stage, |leaf| &leaf.serial)?;
    Ok(Seen { lines: after.lines(), met: Roots::of(stage)? == roots })
}

fn an_hour_without_ca(stage: &mut Stage) -> Result<Seen, LabError> {
    let roots = Roots::of(stage)?;
    stage.ca.kill();
    let away = Instant::now();
    // Nothing is waited for but the hour itself.
    wait_until(SOON, "an hour to pass", || Ok((away.elapsed() >= HOUR).then_some(())))?;
    let before = Leaves::of(stage)?;
    stage.ca.start_again()?;
    let after = before.wait_for_other(stage, |leaf| &leaf.serial)?;
    Ok(Seen { lines: after.lines(), met: Roots::of(stage)? == roots })
}

fn next_root(stage: &Stage) -> Result<Seen, LabError> {
    let first = Roots::of(stage)?;
    stage.ca.tool(&["root", "prepare"])?;
    let both = Roots::wait_for(stage, 2)?;
    Ok(Seen { lines: vec![both.line()], met: both.0.is_superset(&first.0) })
}

fn too_early(stage: &Stage) -> Result<Seen, LabError> {
    match stage.ca.tool(&["root", "activate"]) {
        Ok(said) => Ok(Seen { lines: said.lines().map(ToOwned::to_owned).collect(), met: false }),
        Err(refusal) => Ok(Seen { lines: words(&refusal), met: true }),
    }
}

fn activated(stage: &mut Stage) -> Result<Seen, LabError> {
    let roots = Roots::of(stage)?;
    stage.ca.kill();
    stage.ca.start_again()?;
    let before = Leaves::of(stage)?;
    wait_for_tool(stage, &["root", "activate"])?;
    let after = before.wait_for_other(stage, |leaf| &leaf.signed_by)?;
    let mut lines = vec![roots.line()];
    lines.extend(after.lines());
    Ok(Seen { lines, met: Roots::of(stage)? == roots })
}

fn retired(stage: &Stage) -> Result<Seen, LabError> {
    wait_for_tool(stage, &["root", "retire"])?;
    let roots = Roots::wait_for(stage, 1)?;
    let leaves = Leaves::of(stage)?;
    let signed = |leaf: &Leaf| roots.0.contains(&leaf.signed_by);
    Ok(Seen { lines: vec![roots.line()], met: signed(&leaves.frontend) && signed(&leaves.backend) })
}

fn every_call(calls: Traffic) -> Seen {
    let count = calls.stop();
    let mut lines = vec![format!("{} calls, {} failed", count.made(), count.failed)];
    lines.extend(count.first_failure.clone());
    Seen { lines, met: count.made() > 0 && count.failed == 0 }
}

/// Asks the CA's tool until it does not refuse.
fn wait_for_tool(stage: &Stage, args: &[&str]) -> Result<(), LabError> {
    let mut last = None;
    let what = format!("pillion-ca {} to be allowed", args.join(" "));
    let waited = wait_until(SOON, &what, || match stage.ca.tool(args) {
        Ok(_) => Ok(Some(())),
        Err(refusal) => {
            last = Some(refusal.to_string());
            // Each question is a process of its own.
            std::thread::sleep(Duration::from_millis(250));
            Ok(None)
        }
    });
    waited.map_err(|error| error.having_seen(|| last.unwrap_or_default()))
}

/// What the tool said, in lines as wide as the page.
fn words(refusal: &LabError) -> Vec<String> {
    let LabError::Command { output, .. } = refusal else { return vec![refusal.to_string()] };
    let mut lines = vec![String::new()];
    for word in output.split_whitespace() {
        let full = lines.last().is_some_and(|line| line.len() + word.len() > 66);
        match lines.last_mut().filter(|_| !full) {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The own certificates of frontend and backend.
#[derive(Debug)]
struct Leaves {
    frontend: Leaf,
    backend: Leaf,
}

#[derive(Debug)]
struct Leaf {
    serial: String,
    /// The key identifier of the root that signed it.
    signed_by: String,
    not_after: String,
}

impl Leaves {
    fn of(stage: &Stage) -> Result<Self, LabError> {
        Ok(Self { frontend: Leaf::of(&stage.frontend)?, backend: Leaf::of(&stage.backend)? })
    }

    /// Waits until both have a certificate that differs in this.
    fn wait_for_other(&self, stage: &Stage, field: impl Fn(&Leaf) -> &String) -> Result<Self, LabError> {
        wait_until(SOON, "both sidecars to have another certificate", || {
            let now = Self::of(stage)?;
            let other = |a, b| field(a) != field(b);
            Ok((other(&self.frontend, &now.frontend) && other(&self.backend, &now.backend)).then_some(now))
        })
    }

    fn lines(&self) -> Vec<String> {
        let line = |name: &str, leaf: &Leaf| {
            let Leaf { serial, signed_by, not_after } = leaf;
            format!("{name}  {}… of root {}, valid until {not_after}", short(serial), short(signed_by))
        };
        vec![line("frontend", &self.frontend), line("backend ", &self.backend)]
    }
}

impl Leaf {
    fn of(sidecar: &RunningSidecar) -> Result<Self, LabError> {
        let page = sidecar.admin_json("/certs")?;
        let leaf = page.pointer("/chain/0").unwrap_or(&Value::Null);
        let (serial, signed_by, not_after) =
            (text(leaf, "serial"), text(leaf, "authorityKeyId"), text(leaf, "notAfter"));
        Ok(Self { serial, signed_by, not_after })
    }
}

/// The key identifiers of the roots that both sidecars trust.
#[derive(Debug, PartialEq, Eq)]
struct Roots(BTreeSet<String>);

impl Roots {
    fn of(stage: &Stage) -> Result<Self, LabError> {
        let (frontend, backend) = (trusted_by(&stage.frontend)?, trusted_by(&stage.backend)?);
        Ok(Self(frontend.intersection(&backend).cloned().collect()))
    }

    /// Waits until each trusts so many and both the same.
    fn wait_for(stage: &Stage, count: usize) -> Result<Self, LabError> {
        wait_until(SOON, &format!("both sidecars to trust {count} roots"), || {
            let (frontend, backend) = (trusted_by(&stage.frontend)?, trusted_by(&stage.backend)?);
            Ok((frontend == backend && frontend.len() == count).then_some(Self(frontend)))
        })
    }

    fn line(&self) -> String {
        let names: Vec<_> = self.0.iter().map(|root| short(root)).collect();
        format!("both trust {}", names.join(" and "))
    }
}

fn trusted_by(sidecar: &RunningSidecar) -> Result<BTreeSet<String>, LabError> {
    let page = sidecar.admin_json("/certs")?;
    let roots = page.pointer(&format!("/bundles/{TRUST_DOMAIN}")).and_then(Value::as_array);
    Ok(roots.into_iter().flatten().map(|root| text(root, "subjectKeyId")).collect())
}

fn text(of: &Value, name: &str) -> String {
    of.get(name).and_then(Value::as_str).unwrap_or("nothing").to_owned()
}

/// Enough of an identifier to tell it from others.
fn short(identifier: &str) -> &str {
    identifier.get(..8).unwrap_or(identifier)
}
