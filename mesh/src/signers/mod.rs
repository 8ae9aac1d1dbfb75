//! Which root of a CA signs, which are published, and when that changes, over years. Pure: the clock is an argument, the
//! keys are somebody else's.
//!
//! A root is *next*, then *current*, then *old*. All three are in the trust bundle; only the current one signs. Nobody is
//! cut off as long as two things hold:
//!
//! * A root is published for longer than any certificate lives before it signs. Whoever holds a valid certificate then
//!   got it, and the bundle with it, after the root was published.
//! * An old root stays published until nothing that it signed is valid any more.
//!
//! Both are reckoned with the longest life that was ever granted under a root, which the CA notes down before it grants it,
//! and only while the CA serves: who could not ask has learned nothing.

mod record;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use crate::duration;
use crate::wire::rfc3339;

pub use record::RecordError;

/// The most roots that are published at a time.
pub const MOST: usize = 8;

/// One root and what the CA knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The first 16 hexadecimal digits of its certificate's SHA-256.
    pub name: String,
    /// Its own validity begins.
    pub not_before: SystemTime,
    /// Its own validity ends.
    pub not_after: SystemTime,
    /// Since when it is in the bundle.
    pub published: SystemTime,
    /// When it began to sign; none while it is the next one.
    pub activated: Option<SystemTime>,
    /// When it signed last; none before it is an old one.
    pub replaced: Option<SystemTime>,
    /// The longest life that was granted under it.
    pub longest: Duration,
}

/// What a root is for at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It signs.
    Current,
    /// It is published and will sign.
    Next,
    /// It is published and signs no more.
    Old,
}

impl Stage {
    /// As people and metrics read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Current => "current",
            Stage::Next => "next",
            Stage::Old => "old",
        }
    }
}

/// The roots of one CA: always a current one, maybe a next one, and old ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signers {
    current: Signer,
    next: Option<Signer>,
    /// The oldest first.
    old: Vec<Signer>,
    sequence: u64,
}

/// How the CA rotates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The least time that a root is published before it signs, whatever the certificates' lives.
    pub publish_ahead: Duration,
    /// How far clocks may be apart.
    pub skew: Duration,
    /// For how long the CA has to have served, so that whoever was waiting for it has asked.
    pub settle: Duration,
}

/// What is so now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// By the CA's clock.
    pub now: SystemTime,
    /// For how long the CA has served without a break; zero where it does not.
    pub serving: Duration,
}

/// What is to be done next, and why, in words for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a next root and publish it.
    Prepare {
        /// Why now.
        why: String,
    },
    /// Let the next root sign.
    Activate {
        /// Why now.
        why: String,
    },
    /// Take an old root out of the bundle.
    Retire {
        /// Which one.
        name: String,
        /// Why now.
        why: String,
    },
    /// Nothing before this time.
    Wait {
        /// When to look again, at the latest.
        until: SystemTime,
        /// For what.
        why: String,
    },
}

/// Why a change would cut somebody off, or cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Hindrance {
    /// No next root.
    #[error("there is no next root; prepare one first")]
    NoNext,
    /// One is prepared already.
    #[error("there is a next root already ({name}); activate it")]
    NextExists {
        /// Its name.
        name: String,
    },
    /// Too many are published.
    #[error("{MOST} roots are published, which is the most; retire old ones first")]
    TooMany,
    /// The next root's own validity has not begun.
    #[error("the next root is valid from {} only; is this clock right?", rfc3339::print(*.from))]
    NotYetValid {
        /// When it begins.
        from: SystemTime,
    },
    /// It is published for too short a time.
    #[error(
        "the next root is published since {}, and certificates live up to {}: workloads that have not asked since then would refuse its certificates until {}",
        rfc3339::print(*.since), duration::print(*.longest), rfc3339::print(*.until)
    )]
    PublishedTooShortly {
        /// Since when it is published.
        since: SystemTime,
        /// The longest life of a certificate.
        longest: Duration,
        /// From when on everybody knows it.
        until: SystemTime,
    },
    /// What it signed may be valid still.
    #[error(
        "root {name} signed until {}, and what it signed may be valid until {}: whoever holds such a certificate would be refused everywhere",
        rfc3339::print(*.replaced), rfc3339::print(*.until)
    )]
    StillInUse {
        /// Its name.
        name: String,
        /// When it signed last.
        replaced: SystemTime,
        /// When nothing of it is valid any more.
        until: SystemTime,
    },
    /// The CA has not been there for long enough.
    #[error(
        "the CA has served for {} only: workloads that could not reach it before have not asked for the new bundle yet; wait until it has served for {}",
        duration::print(whole_seconds(*.serving)), duration::print(*.settle)
    )]
    JustBack {
        /// For how long it has served.
        serving: Duration,
        /// For how long it should.
        settle: Duration,
    },
    /// Not an old root.
    #[error("no old root is named {name}; only old ones can be retired")]
    NotOld {
        /// What was asked for.
        name: String,
    },
}

impl Hindrance {
    /// Whether a person may go on nevertheless: what would be cut off is all that speaks against it.
    #[must_use]
    pub fn can_be_forced(&self) -> bool {
        match self {
            Hindrance::PublishedTooShortly { .. }
            | Hindrance::StillInUse { .. }
            | Hindrance::JustBack { .. } => true,
            Hindrance::NoNext
            | Hindrance::NextExists { .. }
            | Hindrance::TooMany
            | Hindrance::NotYetValid { .. }
            | Hindrance::NotOld { .. } => false,
        }
    }
}

impl Hindrance {
    /// When it is over by itself.
    fn over_at(&self, facts: &Facts) -> Option<SystemTime> {
        match self {
            Hindrance::PublishedTooShortly { until, .. } | Hindrance::StillInUse { until, .. } => {
                Some(*until)
            }
            Hindrance::NotYetValid { from } => Some(*from),
            Hindrance::JustBack { serving, settle } => {
                Some(later(facts.now, settle.saturating_sub(*serving)))
            }
            Hindrance::NoNext
            | Hindrance::NextExists { .. }
            | Hindrance::TooMany
            | Hindrance::NotOld { .. } => None,
        }
    }
}

impl Signer {
    /// A root that is published from `published` on and signs nothing yet.
    #[must_use]
    pub fn new(
        name: String,
        (not_before, not_after): (SystemTime, SystemTime),
        published: SystemTime,
        longest: Duration,
    ) -> Self {
        Signer { name, not_before, not_after, published, activated: None, replaced: None, longest }
    }

    /// What it is for at the moment.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match (self.activated, self.replaced) {
            (_, Some(_)) => Stage::Old,
            (Some(_), None) => Stage::Current,
            (None, None) => Stage::Next,
        }
    }

    /// When a fifth of its life is over. One that a person has prepared long ahead does not wait until it has hardly more
    /// life left than the root that it replaces: were the CA then away for a while, both would end.
    fn ages_at(&self) -> SystemTime {
        later(self.not_before, self.life() / 5)
    }

    fn life(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }

    /// When nothing that it signed is valid any more by any clock, had it signed last at `last`.
    fn unused_from(&self, last: SystemTime, skew: Duration) -> SystemTime {
        later(later(last, self.longest).min(self.not_after), skew)
    }
}

impl Signers {
    /// Of a CA that begins: its first root signs at once, since nobody knows another.
    #[must_use]
    pub fn first(root: Signer) -> Self {
        let activated = Some(root.published);
        Signers { current: Signer { activated, ..root }, next: None, old: Vec::new(), sequence: 1 }
    }

    /// The root that signs.
    #[must_use]
    pub fn current(&self) -> &Signer {
        &self.current
    }

    /// The root that will sign.
    #[must_use]
    pub fn next(&self) -> Option<&Signer> {
        self.next.as_ref()
    }

    /// The roots that sign no more, the oldest first.
    #[must_use]
    pub fn old(&self) -> &[Signer] {
        &self.old
    }

    /// All that are published: the current one, the next one, the old ones.
    pub fn published(&self) -> impl Iterator<Item = &Signer> {
        std::iter::once(&self.current).chain(&self.next).chain(&self.old)
    }

    /// The root that was published first of those that are valid for `life` more, else the current one: whoever has not
    /// asked for the longest time knows it at least. The CA's own server certificate is best signed by it.
    #[must_use]
    pub fn longest_known(&self, now: SystemTime, life: Duration) -> &Signer {
        self.old.iter().find(|root| root.not_after >= later(now, life)).unwrap_or(&self.current)
    }

    /// Counts the changes of the set of published roots, from 1 (SPIFFE bundle, `spiffe_sequence`).
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Notes that certificates of this life are granted under the current root; whether that is longer than before.
    pub fn grant(&mut self, life: Duration) -> bool {
        let longer = life > self.current.longest;
        self.current.longest = self.current.longest.max(life);
        longer
    }

    /// Whether a next root can be published.
    ///
    /// # Errors
    /// Where there is one, or too many are published.
    pub fn can_prepare(&self) -> Result<(), Hindrance> {
        match &self.next {
            Some(next) => Err(Hindrance::NextExists { name: next.name.clone() }),
            None if self.published().count() >= MOST => Err(Hindrance::TooMany),
            None => Ok(()),
        }
    }

    /// Publishes a next root.
    ///
    /// # Errors
    /// As [`Self::can_prepare`].
    pub fn prepare(&mut self, root: Signer) -> Result<(), Hindrance> {
        self.can_prepare()?;
        self.next = Some(Signer { activated: None, replaced: None, ..root });
        self.sequence += 1;
        Ok(())
    }

    /// Takes the next root, which has signed nothing, out of the bundle.
    pub fn drop_next(&mut self) {
        if self.next.take().is_some() {
            self.sequence += 1;
        }
    }

    /// The current signer, which is somebody else's, leads to other roots than before.
    pub fn republish(&mut self) {
        self.sequence += 1;
    }

    /// Whether the next root can sign without cutting anybody off.
    ///
    /// # Errors
    /// What speaks against it.
    pub fn can_activate(&self, facts: &Facts, policy: &Policy) -> Result<(), Hindrance> {
        let next = self.next.as_ref().ok_or(Hindrance::NoNext)?;
        if facts.now < next.not_before {
            return Err(Hindrance::NotYetValid { from: next.not_before });
        }
        let until = later(next.published, self.ahead(policy));
        if facts.now < until {
            let (since, longest) = (next.published, self.current.longest);
            return Err(Hindrance::PublishedTooShortly { since, longest, until });
        }
        settled(facts, policy)
    }

    /// Lets the next root sign, whatever speaks against it but that there is none.
    ///
    /// # Errors
    /// `NoNext`.
    pub fn activate(&mut self, now: SystemTime) -> Result<(), Hindrance> {
        let next = self.next.take().ok_or(Hindrance::NoNext)?;
        // What the last one granted the next one will grant, too.
        let longest = next.longest.max(self.current.longest);
        let next = Signer { activated: Some(now), longest, ..next };
        let last = std::mem::replace(&mut self.current, next);
        self.old.push(Signer { replaced: Some(now), ..last });
        Ok(())
    }

    /// Whether the old root of this name can leave the bundle without cutting anybody off.
    ///
    /// # Errors
    /// What speaks against it.
    pub fn can_retire(&self, name: &str, facts: &Facts, policy: &Policy) -> Result<(), Hindrance> {
        let unknown = || Hindrance::NotOld { name: name.to_owned() };
        let root = self.old.iter().find(|root| root.name == name).ok_or_else(unknown)?;
        let replaced = root.replaced.ok_or_else(unknown)?;
        let until = root.unused_from(replaced, policy.skew);
        if facts.now < until {
            return Err(Hindrance::StillInUse { name: name.to_owned(), replaced, until });
        }
        settled(facts, policy)
    }

    /// Takes an old root out of the bundle, whatever speaks against it.
    ///
    /// # Errors
    /// `NotOld`.
    pub fn retire(&mut self, name: &str) -> Result<(), Hindrance> {
        let at = self.old.iter().position(|root| root.name == name);
        let at = at.ok_or_else(|| Hindrance::NotOld { name: name.to_owned() })?;
        self.old.remove(at);
        self.sequence += 1;
        Ok(())
    }

    /// What is to be done by age, and when to look again.
    #[must_use]
    pub fn step(&self, facts: &Facts, policy: &Policy) -> Step {
        let (retire, retire_at) = self.retirement(facts, policy);
        if let Some(step) = retire {
            return step;
        }
        let (replace_at, last_moment) =
            (self.replace_at(policy), earlier(self.current.not_after, policy.skew));
        let current = &self.current;
        let ends = rfc3339::print(current.not_after);
        let Some(next) = &self.next else {
            let prepare_at = earlier(replace_at, self.ahead(policy));
            return match self.can_prepare() {
                Ok(()) if facts.now >= prepare_at => {
                    let by = rfc3339::print(replace_at);
                    Step::Prepare {
                        why: format!("root {} ends at {ends} and is to be replaced at {by}", current.name),
                    }
                }
                Ok(()) => wait(facts, policy, [Some(prepare_at), retire_at], "the next root is prepared"),
                Err(hindrance) => wait(facts, policy, [retire_at, None], &hindrance.to_string()),
            };
        };
        let replace_at = replace_at.min(next.ages_at());
        if facts.now < replace_at {
            return wait(facts, policy, [Some(replace_at), retire_at], "the next root signs");
        }
        match self.can_activate(facts, policy) {
            Ok(()) => Step::Activate {
                why: format!("root {} ends at {ends}; everybody knows the next one", current.name),
            },
            // Nothing gets better by waiting for the end of the root that signs.
            Err(hindrance) if hindrance.can_be_forced() && facts.now >= last_moment => {
                Step::Activate { why: format!("root {} ends at {ends}, though {hindrance}", current.name) }
            }
            Err(hindrance) => {
                wait(facts, policy, [hindrance.over_at(facts), retire_at], &hindrance.to_string())
            }
        }
    }

    /// The old root that can go now, or when the next one can.
    fn retirement(&self, facts: &Facts, policy: &Policy) -> (Option<Step>, Option<SystemTime>) {
        let mut at = None;
        for root in &self.old {
            match self.can_retire(&root.name, facts, policy) {
                Ok(()) => {
                    let why = "nothing that it signed is valid any more".to_owned();
                    return (Some(Step::Retire { name: root.name.clone(), why }), None);
                }
                Err(hindrance) => at = at.into_iter().chain(hindrance.over_at(facts)).min(),
            }
        }
        (None, at)
    }

    /// How long a root is published before it signs.
    fn ahead(&self, policy: &Policy) -> Duration {
        policy.publish_ahead.max(self.current.longest.saturating_add(policy.skew))
    }

    /// When the current root should be replaced: with a fifth of its life left, as Istio does, and while it can still
    /// grant the longest life.
    fn replace_at(&self, policy: &Policy) -> SystemTime {
        let root = &self.current;
        earlier(root.not_after, (root.life() / 5).max(root.longest.saturating_add(policy.skew)))
    }
}

fn settled(facts: &Facts, policy: &Policy) -> Result<(), Hindrance> {
    let (serving, settle) = (facts.serving, policy.settle);
    if serving < settle { Err(Hindrance::JustBack { serving, settle }) } else { Ok(()) }
}

/// Until the first of these times; where that is past or unknown, something else is waited for that takes no longer than
/// to settle.
fn wait(facts: &Facts, policy: &Policy, times: [Option<SystemTime>; 2], why: &str) -> Step {
    let known = times.into_iter().flatten().filter(|at| *at > facts.now).min();
    let until = known.unwrap_or_else(|| later(facts.now, policy.settle.max(Duration::from_secs(1))));
    Step::Wait { until, why: why.to_owned() }
}

fn later(at: SystemTime, by: Duration) -> SystemTime {
    at.checked_add(by).unwrap_or(at)
}

fn earlier(at: SystemTime, by: Duration) -> SystemTime {
    at.checked_sub(by).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}
