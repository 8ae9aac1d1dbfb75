//! The decision, told rule by rule.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::rule::Rule;
use super::verdict::{Miss, Shadow, ShadowResult, Verdict};
use super::{Policy, Scope};
use crate::resource::Action;

/// How a decision was reached.
#[derive(Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The decision.
    pub verdict: Verdict,
    /// Every policy that applies to the workload: AUDIT, DENY, ALLOW, then those in dry run.
    pub policies: Vec<PolicyExplanation>,
}

/// What a policy had to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyExplanation {
    /// `namespace/name`.
    pub name: String,
    /// `file:line`.
    pub place: String,
    /// Why it applies.
    pub scope: Scope,
    /// What it does.
    pub action: Action,
    /// Whether it only tells.
    pub dry_run: bool,
    /// Its rules in order; a policy without rules matches nothing.
    pub rules: Vec<RuleExplanation>,
}

/// Whether a rule matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleExplanation {
    /// Whether it matched.
    pub matched: bool,
    /// Fields that it was read without, since the connection is TCP and they ask for HTTP.
    pub ignored: Vec<String>,
    /// Where not: of each alternative of the part that failed, the first field.
    pub misses: Vec<Miss>,
}

/// What the evaluation is for.
pub(super) enum Asked<'e> {
    /// The decision alone.
    ToDecide,
    /// What every rule has to say, put here.
    ToExplain(&'e mut Vec<PolicyExplanation>),
}

impl Asked<'_> {
    pub(super) fn to_explain(&self) -> bool {
        matches!(self, Self::ToExplain(_))
    }
}

impl PolicyExplanation {
    pub(super) fn of(policy: &Policy, rules: &[Rule], facts: &Facts<'_>) -> Self {
        let rule = |rule: &Rule| match rule.evaluate(facts) {
            Ok(()) => {
                RuleExplanation { matched: true, ignored: rule.ignored_fields(facts), misses: Vec::new() }
            }
            Err(failure) => {
                RuleExplanation { matched: false, ignored: Vec::new(), misses: failure.misses(facts) }
            }
        };
        Self {
            name: policy.name.clone(),
            place: policy.place.clone(),
            scope: policy.scope,
            action: policy.action,
            dry_run: policy.dry_run,
            rules: rules.iter().map(rule).collect(),
        }
    }
}

/// Several lines, the decision first.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict.outcome {
            Ok(permit) => write!(f, "allowed: {}", permit.because())?,
            Err(denial) => write!(f, "denied: {denial}")?,
        }
        if let Some(rule) = &self.verdict.audited {
            write!(f, "\naudited: {rule} matches")?;
        }
        write!(f, "{}", self.verdict.shadow)?;
        self.policies.iter().try_for_each(|policy| write!(f, "\n{policy}"))
    }
}

impl fmt::Display for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (action, result) in [("DENY", &self.deny), ("ALLOW", &self.allow)] {
            let Some(ShadowResult { allowed, rule }) = result else { continue };
            let outcome = if *allowed { "allowed" } else { "denied" };
            write!(f, "\ndry run of {action}: {outcome}: ")?;
            match rule {
                Some(rule) => write!(f, "{rule} matches")?,
                None => f.write_str("no rule matches")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for PolicyExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, place, scope, action, dry_run, rules } = self;
        let dry_run = if *dry_run { ", dry run" } else { "" };
        write!(f, "  {action} {name} ({scope}{dry_run}; {place})")?;
        if rules.is_empty() {
            write!(f, "\n    no rules: matches nothing")?;
        }
        for (number, rule) in rules.iter().enumerate() {
            write!(f, "\n    rule[{number}] {}", if rule.matched { "matches" } else { "does not match" })?;
            if !rule.ignored.is_empty() {
                write!(f, ", read without {}: the connection is TCP", rule.ignored.join(", "))?;
            }
            rule.misses.iter().try_for_each(|miss| write!(f, "\n      {miss}"))?;
        }
        Ok(())
    }
}
