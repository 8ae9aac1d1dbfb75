//! What is legal in the mesh folder and probably not meant: one list of codes for `pillion analyze`, the log, the admin
//! API and `docs/reference/findings.md`.
//!
//! Whoever reads resources finds: each room reports what it alone can see. What is not legal at all is a
//! [`crate::yaml::YamlError`].

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something is not in force as it is written, or connections fail.
    Error,
    /// It works, and probably not as it was meant.
    Warning,
    /// Worth knowing.
    Info,
}

impl Severity {
    /// Every severity, the worst first.
    pub const ALL: [Severity; 3] = [Severity::Error, Severity::Warning, Severity::Info];

    /// `error`, `warning` or `info`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        }
    }

    /// What it means, in one sentence for a person.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Severity::Error => "Something is not in force as it is written, or connections fail.",
            Severity::Warning => "It works, and probably not as it was meant.",
            Severity::Info => "Worth knowing.",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! codes {
    ($($variant:ident = $id:literal, $severity:ident, $sentence:literal, $cure:literal;)+) => {
        /// What was found. The id is stable: scripts rely on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Code { $(#[doc = $sentence] $variant,)+ }

        impl Code {
            /// Every code, in the order of the reference page.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)+];

            /// The short stable word.
            #[must_use]
            pub fn id(self) -> &'static str { match self { $(Code::$variant => $id,)+ } }

            /// How bad it is.
            #[must_use]
            pub fn severity(self) -> Severity { match self { $(Code::$variant => Severity::$severity,)+ } }

            /// What is so, in one sentence for a person.
            #[must_use]
            pub fn sentence(self) -> &'static str { match self { $(Code::$variant => $sentence,)+ } }

            /// What most likely helps, where the place says nothing more fitting.
            #[must_use]
            pub fn cure(self) -> &'static str { match self { $(Code::$variant => $cure,)+ } }
        }
    };
}

codes! {
    FileNotRead = "file_not_read", Warning,
        "A file of the mesh folder is not read, since its name is not that of a resource file.",
        "let its name end in .yaml, .yml or .json, or move it elsewhere";
    ResourceTwice = "resource_twice", Warning,
        "Two resources of one kind have the same name and namespace, and both are read; in a cluster the later would have replaced the earlier.",
        "keep one of them, or give one another name";
    PolicyIgnored = "policy_ignored", Error,
        "A PeerAuthentication is ignored, since another of the same scope is older or comes first.",
        "keep one of them";
    AppliesNowhere = "applies_nowhere", Error,
        "A PeerAuthentication of the root namespace has a selector, and so applies to no workload.",
        "move it into the workloads' own namespace, or take the selector out";
    AllowNeverMatches = "allow_never_matches", Error,
        "An ALLOW rule asks for what only HTTP has, on a port that is not HTTP: it never matches there.",
        "declare the port's protocol as HTTP in its ServiceEntry, or take the HTTP fields out of the rule";
    DenyDeniesMore = "deny_denies_more", Warning,
        "A DENY rule asks for what only HTTP has, on a port that is not HTTP: it is read without these fields there and denies more.",
        "declare the port's protocol as HTTP in its ServiceEntry, or name other ports in the rule";
    AuditMarksMore = "audit_marks_more", Info,
        "An AUDIT rule asks for what only HTTP has, on a port that is not HTTP: it is read without these fields there and marks more.",
        "declare the port's protocol as HTTP in its ServiceEntry, or name other ports in the rule";
    PlaintextEscapesDeny = "plaintext_escapes_deny", Warning,
        "A DENY rule asks who the peer is, on a port that accepts plaintext: whoever comes in plaintext has no identity and is not denied.",
        "set the port to STRICT, or deny what has no identity too: another rule with `notPrincipals: ['*']`";
    ProtocolTwice = "protocol_twice", Warning,
        "Two ServiceEntries declare different protocols for one port of a workload; the first is taken.",
        "let both say the same";
    AddressTaken = "address_taken", Warning,
        "A ServiceEntry does not get a name or an address with its port, since another that comes first has it.",
        "give them different names and addresses, or take one out";
    ExternalWithSidecar = "external_with_sidecar", Error,
        "A ServiceEntry is MESH_EXTERNAL, as it is without `location`, and has an endpoint with a sidecar: that is dialled in plaintext.",
        "say `location: MESH_INTERNAL`";
    NobodyMayServe = "nobody_may_serve", Error,
        "An endpoint has a sidecar, and no identity is known that may serve its host: connections there are refused.",
        "give the WorkloadEntry a `serviceAccount`, or the ServiceEntry `subjectAltNames`";
    NameForStatic = "name_for_static", Error,
        "A WorkloadEntry has a name for an address, and is left out of the ServiceEntry that selects it, whose resolution is STATIC.",
        "say `resolution: DNS` in the ServiceEntry, or give the WorkloadEntry an IP address";
    NoAddress = "no_address", Warning,
        "A ServiceEntry has resolution NONE, as it has without `resolution`, and no `addresses`: no connection can be told to be its own.",
        "say `resolution: DNS`, or name the addresses";
    RuleIgnored = "rule_ignored", Error,
        "A DestinationRule is ignored, since another for the same host comes first.",
        "keep one of them, or write both into one";
    NotApplied = "not_applied", Info,
        "A DestinationRule shapes load, which pillion does not: the field is read and has no effect.",
        "take the field out, so that nobody relies on it";
    VerificationSkipped = "verification_skipped", Warning,
        "A DestinationRule believes whoever answers (insecureSkipVerify): the connection is encrypted to anybody.",
        "name the server's roots by caCertificates instead";
    NoServerName = "no_server_name", Error,
        "A DestinationRule asks for TLS to a wildcard host, and no name is known that the server must prove: connections there are refused.",
        "name it by `sni` or `subjectAltNames`, or write a rule for each host";
    SubsetUnknown = "subset_unknown", Error,
        "A route leads to a subset that the DestinationRule of its host does not have: requests there are refused.",
        "add the subset to the DestinationRule, or take it out of the route";
    RouteUnknown = "route_unknown", Error,
        "A route leads to a host, or a port of it, that the registry does not know: requests there are refused.",
        "add a ServiceEntry for the host, or name one of its ports in the route";
    GatewayUnknown = "gateway_unknown", Error,
        "A VirtualService names a Gateway that does not exist or does not take its hosts: its routes are not in force.",
        "mend the name (`namespace/name` for one of another namespace), or the hosts of the Gateway's servers";
    EverybodyServes = "everybody_serves", Info,
        "A ServiceEntry has an empty workloadSelector: every WorkloadEntry of its namespace serves it.",
        "name the labels of those that shall";
    InvalidResource = "invalid_resource", Error,
        "A file of the mesh folder is no good: until it is mended no proxy takes any change of the folder, and none starts with it.",
        "mend it there, or move it out of the folder; until then no proxy takes any change of the folder";
    SelectsNobody = "selects_nobody", Warning,
        "A selector picks no workload that is known.",
        "mend the labels, or make the workload known: an endpoint with its labels, or its proxy's file by `--config`";
    NearMiss = "near_miss", Warning,
        "A resource names somebody who is not known, and somebody of nearly the same name is.",
        "mend the name";
    OpenWithoutReason = "open_without_reason", Warning,
        "A PeerAuthentication lets plaintext in, and does not say why.",
        "set it to STRICT, or write down why not: `metadata.annotations: {pillion.io/reason: …}`";
    ModeInDryRun = "mode_in_dry_run", Info,
        "A PeerAuthentication is in dry run (istio.io/dry-run): it changes nothing, and what it would refuse is told.",
        "look at `pillion migrate status`, and take the annotation out when nobody would be cut off";
    NoPeerAuthentication = "no_peer_authentication", Info,
        "No PeerAuthentication applies to a workload: its ports are PERMISSIVE and let plaintext in.",
        "set STRICT for the mesh (no selector, in the root namespace), for the namespace or for the workload";
    NobodyMayCall = "nobody_may_call", Warning,
        "No caller can be let in to a service: whatever ALLOW policies apply to it, none of their rules can match.",
        "add an ALLOW rule for its callers; if it shall have none, take its ServiceEntry out";
    RulesSplit = "rules_split", Warning,
        "A rule that says only who is followed by one that says only what: either of them is enough, they do not count together.",
        "if they belong together, take the dash before the second out; if not, write the one without `from` first";
    EntriesSplit = "entries_split", Warning,
        "Entries of one list ask for different fields, one each: either of them is enough, they do not count together.",
        "if they belong together, write the fields into one entry; if not, give each a rule of its own";
    HostUnknown = "host_unknown", Error,
        "A DestinationRule is for a host that no ServiceEntry has: it applies to nothing.",
        "add a ServiceEntry for the host, or mend the name";
    MutualWithoutSidecar = "mutual_without_sidecar", Error,
        "A DestinationRule says ISTIO_MUTUAL to an endpoint without a sidecar: connections there fail.",
        "label the endpoint `security.istio.io/tlsMode: istio` if it has one, or take the rule's `tls` out";
    TlsTwice = "tls_twice", Error,
        "A DestinationRule asks for TLS to a port on which the app speaks TLS itself: the server gets TLS within TLS.",
        "declare the port as HTTP or TCP if the app speaks plaintext there, or take the rule's `tls` out";
    SecretsWritten = "secrets_written", Warning,
        "A sidecar writes the secrets of its TLS sessions to a file (`tls.keyLogFile`): whoever reads it can decrypt its traffic.",
        "take `tls.keyLogFile` out of its settings, and delete the file";
    EncryptedTwice = "encrypted_twice", Info,
        "A DestinationRule says ISTIO_MUTUAL to a port on which the app speaks TLS itself: it works, and is encrypted twice.",
        "let the app speak plaintext and declare the port so, if its own TLS is not needed";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// Something legal that is probably not meant: a policy that lost, a port that is declared twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was found.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// `file:line` of the resource, or the file.
    pub place: String,
    /// What is so and what it causes.
    pub message: String,
    /// What most likely helps.
    pub cure: Cow<'static, str>,
    /// The workloads that it is about, `namespace/service account`, where several are looked at and not all alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<String>,
}

impl Finding {
    /// With the severity and the cure of its code.
    #[must_use]
    pub fn new(code: Code, place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: code.severity(),
            place: place.into(),
            message: message.into(),
            cure: code.cure().into(),
            workloads: Vec::new(),
        }
    }

    /// With a cure that fits the place better than that of its code.
    #[must_use]
    pub(crate) fn with_cure(self, cure: impl Into<Cow<'static, str>>) -> Self {
        Self { cure: cure.into(), ..self }
    }
}

/// What is so, and what helps. The place and the code stand beside it.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message, self.cure)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_equal_their_serialized_form() {
        let mut seen = HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.id()), "{} stands twice", code.id());
            assert_eq!(serde_json::to_value(code).unwrap(), code.id());
        }
        for severity in Severity::ALL {
            assert_eq!(serde_json::to_value(severity).unwrap(), severity.as_str());
        }
    }

    #[test]
    fn every_code_names_a_cure_that_ends_a_sentence() {
        for code in Code::ALL {
            assert!(!code.cure().is_empty() && !code.cure().ends_with('.'), "{code}");
            assert!(code.sentence().ends_with('.'), "{code}");
        }
    }
}
