//! What was decided, with its reason.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::Policy;
use super::facts::Facts;
use super::rule::Rule;
use crate::resource::Meta;

/// The decision, and what is only told of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What holds.
    pub outcome: Result<Permit, Denial>,
    /// The AUDIT rule that marks it.
    pub audited: Option<RuleName>,
    /// What policies in dry run would have decided.
    pub shadow: Shadow,
}

/// Proof that a connection or request was authorized: only the authorizer makes one.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    grant: Grant,
}

/// Why something is permitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// No ALLOW policy applies to the workload, and no DENY rule matched.
    NoAllowPolicy,
    /// This ALLOW rule matched, and no DENY rule.
    Rule(RuleName),
}

/// Why something is denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Denial {
    /// This DENY rule matched.
    Rule(RuleName),
    /// ALLOW policies apply to the workload, and none of their rules matched.
    NoAllowRule {
        /// The first rules, and on what they failed.
        considered: Vec<Considered>,
        /// How many more there are.
        more: usize,
    },
}

/// An ALLOW rule that did not match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Considered {
    /// The rule, or the policy where it has none.
    pub name: String,
    /// The first field that failed; `None` where the policy has no rules, which matches nothing.
    pub miss: Option<Miss>,
}

/// A field of a rule that did not match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Miss {
    /// The field, as `from[0].source.principals`.
    pub field: String,
    /// The policy's values.
    pub expected: String,
    /// What the connection or request has.
    pub seen: String,
}

/// A rule of a policy as Envoy's logs have it: `ns[foo]-policy[name]-rule[0]`. A clone costs nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuleName(Arc<str>);

/// What the policies in dry run would have decided, those of each action by themselves. `None` where there are none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Shadow {
    /// The DENY policies in dry run.
    pub deny: Option<ShadowResult>,
    /// The ALLOW policies in dry run.
    pub allow: Option<ShadowResult>,
}

/// One result of a dry run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShadowResult {
    /// Whether it would have been allowed.
    pub allowed: bool,
    /// The rule that matched.
    pub rule: Option<RuleName>,
}

impl RuleName {
    pub(super) fn new(policy: &Meta, rule: usize) -> Self {
        Self(format!("ns[{}]-policy[{}]-rule[{rule}]", policy.namespace, policy.name).into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Permit {
    pub(super) fn new(grant: Grant) -> Self {
        Self { grant }
    }

    /// Why it is permitted.
    #[must_use]
    pub fn because(&self) -> &Grant {
        &self.grant
    }
}

impl Considered {
    /// The rules of a policy that matched nothing.
    pub(super) fn of(policy: &Policy, rules: &[Rule], facts: &Facts<'_>) -> impl Iterator<Item = Self> {
        let without_rules = rules.is_empty().then(|| Self { name: policy.name.clone(), miss: None });
        let considered = |rule: &Rule| Self {
            name: rule.name().to_string(),
            miss: rule.evaluate(facts).err().and_then(|failure| failure.misses(facts).into_iter().next()),
        };
        without_rules.into_iter().chain(rules.iter().map(considered))
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for RuleName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

/// To follow "because".
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAllowPolicy => f.write_str("no ALLOW policy applies"),
            Self::Rule(rule) => write!(f, "{rule} matches"),
        }
    }
}

/// To follow "because".
impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => write!(f, "{rule} matches"),
            Self::NoAllowRule { considered, more } => {
                f.write_str("no ALLOW rule matches")?;
                for (number, considered) in considered.iter().enumerate() {
                    write!(f, "{} {considered}", if number == 0 { ":" } else { ";" })?;
                }
                if *more > 0 {
                    write!(f, "; and {more} more")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Considered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.miss {
            Some(miss) => write!(f, "{}: {miss}", self.name),
            None => write!(f, "{} has no rules and matches nothing", self.name),
        }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, seen {}", self.field, self.expected, self.seen)
    }
}
