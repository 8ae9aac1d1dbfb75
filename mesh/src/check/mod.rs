//! Whether a mesh is as it should be: what proxies tell of themselves and what was seen, judged check by check.
//!
//! Whoever asks gathers the [`Asked`]; [`judge`] is pure. Each kind of check has an id that scripts rely on and a place in
//! `docs/reference/checks.md`, to which the hints lead.

mod edges;
mod facts;
mod judge;
#[cfg(test)]
mod tests;
mod text;

pub use facts::{Asked, Bundle, Captured, Certificate, Certs, ConfigDump, Facts, Readiness, Stream};
pub use judge::judge;

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! checks {
    ($($variant:ident = $id:literal, $group:ident, $sentence:literal, $cure:literal;)+) => {
        /// What is checked. The id is stable: scripts rely on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Kind { $(#[doc = $sentence] $variant,)+ }

        impl Kind {
            /// Every kind, in the order of the report and of the reference page.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant,)+];

            /// The short stable word.
            #[must_use]
            pub fn id(self) -> &'static str { match self { $(Kind::$variant => $id,)+ } }

            /// Under which heading it stands.
            #[must_use]
            pub fn group(self) -> Group { match self { $(Kind::$variant => Group::$group,)+ } }

            /// What is so where it passes, in one sentence for a person.
            #[must_use]
            pub fn sentence(self) -> &'static str { match self { $(Kind::$variant => $sentence,)+ } }

            /// What most likely helps where it does not.
            #[must_use]
            pub fn cure(self) -> &'static str { match self { $(Kind::$variant => $cure,)+ } }
        }
    };
}

checks! {
    ProxyAnswers = "proxy_answers", Proxies,
        "The proxy answers by its admin API.",
        "Start the proxy, and name its admin API by --proxy; it listens on loopback only, so ask in its container or network namespace, or set admin.address.";
    ProxyReady = "proxy_ready", Proxies,
        "The proxy serves connections.",
        "Its word says what is missing: most often a certificate. `pillion wait` waits for it.";
    VersionsEqual = "versions_equal", Proxies,
        "All proxies and this tool are of one version.",
        "Replace the older ones; while that goes on, neighbouring versions work together.";
    CertificateValid = "certificate_valid", Identity,
        "The proxy has a certificate that is valid now and lasts for more than a tenth of its lifetime.",
        "Look at the renewals below: without a new certificate the proxy refuses every connection of the mesh when this one ends.";
    RootsValid = "roots_valid", Identity,
        "A root of the proxy's own trust domain is valid for thirty days and more.",
        "Replace the root: docs/how-to/roots.md goes through it without cutting anybody off.";
    RootsCommon = "roots_common", Identity,
        "Proxies of one trust domain believe each other's certificates.",
        "Compare the bundles by `/certs`: one may be from before a rotation, or from another CA. Let both read the bundle of the CA that signs.";
    ClocksAgree = "clocks_agree", Identity,
        "The clocks of the proxies and of this tool agree within ten seconds.",
        "Set the clock by NTP: certificates are valid from two minutes before they are issued, and beyond that they are refused.";
    CaReachable = "ca_reachable", Authority,
        "The newest try to get a certificate succeeded.",
        "The proxy's word names the fault: the CA is down, cannot be reached, or refuses the token. docs/reference/ca-refusals.md lists the refusals.";
    CaReady = "ca_ready", Authority,
        "The CA says that it can sign.",
        "Look at the CA's log; its monitoring port (15014) is what --ca names.";
    PolicyLoaded = "policy_loaded", Policies,
        "The mesh folder as it is now is in force.",
        "Mend the file that the fault names; `pillion analyze FOLDER` finds every fault. Until then the policies from before are in force.";
    NoFindings = "no_findings", Policies,
        "Nothing in the mesh folder is probably not meant.",
        "docs/reference/findings.md explains each code and what helps.";
    TrafficCaptured = "traffic_captured", Interception,
        "Connections of the workload come to the proxy.",
        "Install the rules by `pillion-iptables apply` before the app starts; `pillion-iptables show` lists them.";
    OwnTrafficExempt = "own_traffic_exempt", Interception,
        "The proxy's own connections do not come back to it.",
        "Run the proxy as the uid that the rules exempt (1337), or give it a mark by interception.mark.";
    LinkSecured = "link_secured", Mesh,
        "No plaintext passes between two workloads with sidecars.",
        "`pillion edges` names the policy or the plan; let the endpoint be known to have a sidecar (label security.istio.io/tlsMode: istio), and the port not be DISABLE.";
    EdgeSecured = "edge_secured", Mesh,
        "Whoever talks to a workload, or is called by it, does so by TLS.",
        "Give the other side a sidecar; `pillion migrate status` lists who has none.";
    NobodyRefused = "nobody_refused", Mesh,
        "Nobody was refused in the last hour.",
        "`pillion explain --last-refused` tells why, and the cure.";
}

/// Headings of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Group {
    /// Whether they are there.
    Proxies,
    /// Certificates, roots and clocks.
    Identity,
    /// Who signs them.
    Authority,
    /// The mesh folder.
    Policies,
    /// The rules.
    Interception,
    /// Who talks to whom.
    Mesh,
}

impl Group {
    /// The heading.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Group::Proxies => "proxies",
            Group::Identity => "identity",
            Group::Authority => "certificate authority",
            Group::Policies => "policies",
            Group::Interception => "interception",
            Group::Mesh => "mesh",
        }
    }
}

/// How a check came out, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// √
    Passed,
    /// ‼: worth a look, or it cannot be told from here.
    Warned,
    /// ×
    Failed,
}

/// One check and how it came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What was checked.
    pub id: Kind,
    /// Under which heading it stands.
    pub group: Group,
    /// How it came out.
    pub outcome: Outcome,
    /// What was seen.
    pub told: String,
    /// Where it is explained what helps; none where it passed.
    pub hint: Option<String>,
}

impl Check {
    fn new(id: Kind, outcome: Outcome, told: impl Into<String>) -> Self {
        let hint = (outcome != Outcome::Passed).then(|| format!("docs/reference/checks.md#{}", id.id()));
        Self { id, group: id.group(), outcome, told: told.into(), hint }
    }
}

/// All checks, in the order of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The worst of all outcomes.
    pub outcome: Outcome,
    /// Each check.
    pub checks: Vec<Check>,
}

impl Report {
    fn of(mut checks: Vec<Check>) -> Self {
        checks.sort_by_key(|check| check.id);
        let outcome = checks.iter().map(|check| check.outcome).max().unwrap_or(Outcome::Passed);
        Self { outcome, checks }
    }

    /// Whether no check failed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.outcome != Outcome::Failed
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}
