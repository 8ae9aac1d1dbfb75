//! Keeps the signers of a serving CA: takes up what a command beside it has changed, rotates by age, notes down the longest
//! life before it is granted, and writes the bundle for others.
//!
//! What is to be done and when, `pillion_mesh::signers` says; `store` has the files. What cannot be done now is said once
//! and tried again; the signers in force stay.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use pillion_mesh::duration;
use pillion_mesh::rotation::{Jump, Moment, jump};
use pillion_mesh::signers::{Facts, Policy, Signers, Step};
use pillion_mesh::spiffe::TrustDomain;
use pillion_mesh::wire::rfc3339;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::external::{External, ExternalFiles};
use crate::files::{self, FileError, PUBLIC_FILE};
use crate::slots::Slots;
use crate::store::{SignerFiles, StateError};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// More steps than one look can bring.
const MOST_STEPS: usize = 8;

/// The signers in force, for whoever signs or publishes.
pub(crate) struct Live(RwLock<Arc<Slots>>);

impl Live {
    pub(crate) fn new(slots: Slots) -> Arc<Self> {
        Arc::new(Live(RwLock::new(Arc::new(slots))))
    }

    pub(crate) fn get(&self) -> Arc<Slots> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, slots: Slots) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(slots);
    }
}

/// How the signers are kept.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) policy: Policy,
    /// Whether roots rotate by age.
    pub(crate) automatic: bool,
    /// The life that is noted down of a root that has granted none yet.
    pub(crate) usual_life: Duration,
    /// Where the bundle is written for others.
    pub(crate) bundle_file: Option<PathBuf>,
    pub(crate) trust_domain: TrustDomain,
    /// The files of an external signer, where there is one.
    pub(crate) external: Option<ExternalFiles>,
}

/// The one who changes the signers in force.
pub(crate) struct Keeper {
    files: SignerFiles,
    plan: Plan,
    clock: Clock,
    live: Arc<Live>,
    begun: Instant,
    seen: Mutex<Seen>,
}

/// The two clocks when the process began to serve, or when the wall clock was set since; and at the last look.
#[derive(Clone, Copy)]
struct Serving {
    since: Duration,
    last: Moment,
}

/// What the signers in force were made of. Whoever changes them holds it.
struct Seen {
    record: Vec<u8>,
    /// The last good contents of the external signer's files.
    external: Option<External>,
    serving: Serving,
    /// The bundle that was written for others.
    delivered: Option<String>,
    /// What went wrong last, so that it is said once.
    complaint: Option<String>,
}

impl Keeper {
    /// Loads the signers.
    pub(crate) fn new(
        files: SignerFiles,
        external: Option<External>,
        plan: Plan,
        clock: Clock,
    ) -> Result<Self, StateError> {
        let record = files.text()?;
        let slots = files.slots(&record, external.as_ref(), clock.now())?;
        let begun = Instant::now();
        let last = Moment { wall: clock.now(), steady: Duration::ZERO };
        let serving = Serving { since: Duration::ZERO, last };
        let seen = Mutex::new(Seen { record, external, serving, delivered: None, complaint: None });
        Ok(Keeper { files, plan, clock, live: Live::new(slots), begun, seen })
    }

    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Notes down, before anything is signed, that certificates of this life are granted.
    pub(crate) fn grant(&self, life: Duration) -> Result<(), StateError> {
        let mut seen = self.seen();
        self.files.change(|signers| {
            signers.grant(life);
            Ok::<_, StateError>(())
        })?;
        tracing::info!(
            life = duration::print(life),
            "the longest life of a certificate so far is noted down"
        );
        self.take_up(&mut seen)
    }

    /// Does what fell due while no CA served, so that one whose root has ended meanwhile can begin.
    pub(crate) fn catch_up(&self) {
        if let Err(error) = self.rotate(&mut self.seen()) {
            tracing::error!(error = %error, "cannot do what fell due while the CA was away");
        }
    }

    /// Looks after the signers until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(looks.tick()).await.is_some() {
            let keeper = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || keeper.look()).await {
                tracing::error!(error = %error, "looking after the signers failed");
            }
        }
    }

    /// One look.
    fn look(&self) {
        let mut seen = self.seen();
        let outcome = self.look_at(&mut seen);
        match (outcome, &seen.complaint) {
            (Ok(()), Some(_)) => {
                tracing::info!("the signers are looked after again");
                seen.complaint = None;
            }
            (Err(error), complaint) => {
                let error = error.to_string();
                if complaint.as_deref() != Some(&error) {
                    tracing::error!(
                        error = error.as_str(),
                        "the signers cannot be looked after; those in force stay"
                    );
                    seen.complaint = Some(error);
                }
            }
            (Ok(()), None) => {}
        }
    }

    fn look_at(&self, seen: &mut Seen) -> Result<(), StateError> {
        let now = Moment { wall: self.clock.now(), steady: self.begun.elapsed() };
        self.notice(&mut seen.serving, now);
        self.take_up(seen)?;
        let slots = self.live.get();
        if slots.current().renew_at().is_some_and(|at| at <= self.clock.now()) {
            self.live.set(self.files.slots(&seen.record, seen.external.as_ref(), self.clock.now())?);
            tracing::info!("made new intermediates");
        }
        // What is published has to be told, also where something else goes wrong.
        let rotated = self.rotate(seen);
        self.deliver_to(seen)?;
        rotated
    }

    /// Does what is due by age.
    fn rotate(&self, seen: &mut Seen) -> Result<(), StateError> {
        if self.plan.external.is_some() {
            self.follow(seen)?;
        }
        for _ in 0..MOST_STEPS {
            let facts = self.facts(seen);
            if !self.plan.automatic
                || matches!(self.live.get().signers().step(&facts, &self.plan.policy), Step::Wait { .. })
            {
                break;
            }
            self.files.change(|signers| self.take_step(signers, &facts))?;
            self.take_up(seen)?;
        }
        Ok(())
    }

    fn facts(&self, seen: &Seen) -> Facts {
        let serving = self.begun.elapsed().saturating_sub(seen.serving.since);
        Facts { now: self.clock.now(), serving: self.clock.passed(serving) }
    }

    /// Where the clock was set, what is due by it has to wait as after a start: it may be set again.
    fn notice(&self, serving: &mut Serving, now: Moment) {
        let last = std::mem::replace(&mut serving.last, now);
        let by = match jump(last, now, self.clock.factor()) {
            Some(Jump::Forward(by)) => {
                format!("forward by {}", duration::print(Duration::from_secs(by.as_secs())))
            }
            Some(Jump::Back(by)) => format!("back by {}", duration::print(Duration::from_secs(by.as_secs()))),
            None => return,
        };
        serving.since = now.steady;
        let now = rfc3339::print(now.wall);
        tracing::warn!(
            by = by.as_str(),
            now = now.as_str(),
            "the clock was set, or the machine slept; roots are not replaced until it has been right for a while"
        );
    }

    /// Takes up the files of the external signer where they have changed. One whose roots are published signs at once;
    /// one of another root is published first, while the last one goes on signing as long as this process has its key.
    fn follow(&self, seen: &mut Seen) -> Result<(), StateError> {
        let Some(files) = &self.plan.external else { return Ok(()) };
        let facts = self.facts(seen);
        let external = External::read(files, &self.plan.trust_domain, facts.now)?;
        let slots = self.live.get();
        let signs = slots.signers().current().name == external.name();
        if signs {
            let same = seen.external.as_ref().is_some_and(|last| last.chain == external.chain);
            if same && slots.current().can_sign() {
                return Ok(());
            }
            self.files.change(|signers| {
                self.files.keep(&external, facts.now)?;
                if !same {
                    signers.republish();
                }
                Ok::<_, StateError>(())
            })?;
        } else {
            let mut told = String::new();
            self.files.change(|signers| {
                let signer = self.files.keep(&external, facts.now)?;
                if signers.next().is_none_or(|next| next.name != external.name()) {
                    signers.drop_next();
                    signers.prepare(signer.record(facts.now, self.plan.usual_life))?;
                }
                told = match signers.can_activate(&facts, &self.plan.policy) {
                    _ if slots.publishes(&signer) => "its root is known".to_owned(),
                    Ok(()) => "everybody knows its root".to_owned(),
                    Err(hindrance) if !slots.current().can_sign() => {
                        format!("the key of the last one has gone, though {hindrance}")
                    }
                    Err(_) => return Ok(()),
                };
                signers.activate(facts.now)?;
                Ok::<_, StateError>(())
            })?;
            if !told.is_empty() {
                tracing::info!(
                    signer = external.name(),
                    why = told.as_str(),
                    "the external signer signs from now on"
                );
            }
        }
        // The last one's key stays in use until the next one signs.
        if self.files.read()?.current().name == external.name() {
            seen.external = Some(external);
            seen.record.clear();
        }
        self.take_up(seen)
    }

    fn take_step(&self, signers: &mut Signers, facts: &Facts) -> Result<(), StateError> {
        match signers.step(facts, &self.plan.policy) {
            // Whoever has the key makes the next one.
            Step::Prepare { .. } | Step::Activate { .. } if self.plan.external.is_some() => {}
            Step::Prepare { why } => {
                let root = self.files.make(facts.now)?;
                tracing::info!(root = root.name(), why = why.as_str(), "published a next root");
                signers.prepare(root.record(facts.now, self.plan.usual_life))?;
            }
            Step::Activate { why } => {
                signers.activate(facts.now)?;
                tracing::info!(
                    root = signers.current().name.as_str(),
                    why = why.as_str(),
                    "the next root signs from now on"
                );
            }
            Step::Retire { name, why } => {
                signers.retire(&name)?;
                tracing::info!(
                    root = name.as_str(),
                    why = why.as_str(),
                    "withdrew an old root from the bundle"
                );
            }
            Step::Wait { .. } => {}
        }
        Ok(())
    }

    /// Takes up the record where it has changed.
    fn take_up(&self, seen: &mut Seen) -> Result<(), StateError> {
        let record = self.files.text()?;
        if record == seen.record {
            return Ok(());
        }
        let slots = self.files.slots(&record, seen.external.as_ref(), self.clock.now())?;
        let names: Vec<_> = slots
            .signers()
            .published()
            .map(|signer| format!("{} ({})", signer.name, signer.stage().as_str()))
            .collect();
        tracing::info!(roots = names.join(", "), sequence = slots.sequence(), "the signers have changed");
        self.live.set(slots);
        seen.record = record;
        Ok(())
    }

    /// Writes the bundle for others.
    pub(crate) fn deliver(&self) -> Result<(), FileError> {
        self.deliver_to(&mut self.seen())
    }

    fn deliver_to(&self, seen: &mut Seen) -> Result<(), FileError> {
        let slots = self.live.get();
        let Some(path) = &self.plan.bundle_file else { return Ok(()) };
        if seen.delivered.as_deref() == Some(slots.bundle_pem()) {
            return Ok(());
        }
        let folder = files::parent_of(path);
        std::fs::create_dir_all(folder).map_err(FileError::new("create", folder))?;
        files::write_changed(path, slots.bundle_pem().as_bytes(), PUBLIC_FILE)?;
        seen.delivered = Some(slots.bundle_pem().to_owned());
        Ok(())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
