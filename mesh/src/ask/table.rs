//! Who may call a workload, as its policies say it: without a caller, rule by rule.

use serde::{Deserialize, Serialize};

use crate::policy::Snapshot;
use crate::policy::authz::PolicyDescription;
use crate::workload::Workload;

/// The AuthorizationPolicies of a workload, and what becomes of everybody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessTable {
    /// The workload that is called, `namespace/name`.
    pub workload: String,
    /// The policies that apply, in the order in which they are asked: AUDIT, DENY, ALLOW, then those in dry run.
    pub policies: Vec<PolicyDescription>,
    /// What becomes of a caller whom no rule is about.
    pub everybody_else: Others,
}

/// What becomes of a caller whom no rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Others {
    /// Whether they are let in.
    pub allowed: bool,
    /// Why.
    pub because: String,
}

/// The table of `workload`, for which `snapshot` was made.
#[must_use]
pub fn table(snapshot: &Snapshot, workload: &Workload) -> AccessTable {
    let allowed = snapshot.authorization.allow_others();
    let because = if allowed {
        "no ALLOW policy applies"
    } else {
        "an ALLOW policy applies, and what no ALLOW rule matches is denied"
    };
    AccessTable {
        workload: format!("{}/{}", workload.namespace, workload.name),
        policies: snapshot.authorization.describe(),
        everybody_else: Others { allowed, because: because.to_owned() },
    }
}
