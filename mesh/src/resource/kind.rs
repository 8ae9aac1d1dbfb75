//! `apiVersion` and `kind`: which resources are read, and what to say of those that are not.

use serde::Deserialize;

use crate::yaml::{At, Document, YamlError, expected_one_of, quoted};

/// The kinds that this version reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    PeerAuthentication,
    AuthorizationPolicy,
    ServiceEntry,
    WorkloadEntry,
    DestinationRule,
    Gateway,
    VirtualService,
}

/// What a document says it is. Other keys are left for the second reading.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Head {
    api_version: Option<At<String>>,
    kind: Option<At<String>>,
    /// Of a `List`.
    pub(super) items: Option<Vec<At<Head>>>,
}

impl Head {
    /// Whether it is the `List` that `kubectl get -o yaml` prints.
    pub(super) fn is_list(&self) -> bool {
        let is = |field: &Option<At<String>>, value| field.as_ref().is_some_and(|field| field.value == value);
        is(&self.api_version, "v1") && is(&self.kind, "List")
    }
}

const SECURITY: &str = "security.istio.io";
const NETWORKING: &str = "networking.istio.io";

/// Equal for every group: a resource means the same under each.
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];

const READ: [(&str, &str, Kind); 7] = [
    ("PeerAuthentication", SECURITY, Kind::PeerAuthentication),
    ("AuthorizationPolicy", SECURITY, Kind::AuthorizationPolicy),
    ("ServiceEntry", NETWORKING, Kind::ServiceEntry),
    ("WorkloadEntry", NETWORKING, Kind::WorkloadEntry),
    ("DestinationRule", NETWORKING, Kind::DestinationRule),
    ("Gateway", NETWORKING, Kind::Gateway),
    ("VirtualService", NETWORKING, Kind::VirtualService),
];

/// Istio's other kinds. To skip one would open what it closes, so each is refused.
const NOT_READ: [&str; 8] = [
    "RequestAuthentication",
    "Sidecar",
    "EnvoyFilter",
    "WorkloadGroup",
    "Telemetry",
    "ProxyConfig",
    "WasmPlugin",
    "TrafficExtension",
];

/// Kubernetes' own kinds, with what stands in their place here.
const KUBERNETES: [(&str, &str); 16] = [
    ("Service", DESCRIBE_SERVICE),
    ("Endpoints", DESCRIBE_SERVICE),
    ("EndpointSlice", DESCRIBE_SERVICE),
    ("Deployment", DESCRIBE_SERVICE),
    ("StatefulSet", DESCRIBE_SERVICE),
    ("DaemonSet", DESCRIBE_SERVICE),
    ("ReplicaSet", DESCRIBE_SERVICE),
    ("Pod", DESCRIBE_SERVICE),
    ("Job", DESCRIBE_SERVICE),
    ("CronJob", DESCRIBE_SERVICE),
    ("Ingress", DESCRIBE_SERVICE),
    ("Namespace", "a namespace needs no declaration: name it in `workload.namespace` of the proxy's file"),
    (
        "ServiceAccount",
        "name it in `workload.serviceAccount` of the proxy's file and register it with the CA",
    ),
    ("ConfigMap", "settings are in the proxy's file"),
    ("Secret", "keys and certificates come from the CA, or from `identity.files` of the proxy's file"),
    ("NetworkPolicy", "it is the cluster's network that applies it; nothing here does"),
];

const DESCRIBE_SERVICE: &str =
    "say where the service listens with a ServiceEntry (networking.istio.io/v1) that has `endpoints`";

const ISTIO_OPERATOR: &str = "IstioOperator installs Istio and is not applied here; what it holds has keys of its \
    own: `identity.ca.ttl` and `identity.ca.keyType` in the proxy's file, `workloadTtl` and `signer` in the CA's";

/// The kind that a document says it is.
///
/// # Errors
/// For any but the kinds that are read, with what stands in its place or was probably meant.
pub(super) fn of(document: &Document<'_>, head: &At<Head>) -> Result<Kind, YamlError> {
    let missing = |field| {
        document.error(head, format!("missing field `{field}`; a resource begins with apiVersion and kind"))
    };
    let api_version = head.value.api_version.as_ref().ok_or_else(|| missing("apiVersion"))?;
    let kind = head.value.kind.as_ref().ok_or_else(|| missing("kind"))?;
    let Some((name, group, read)) = READ.iter().find(|(name, ..)| *name == kind.value) else {
        return Err(document.error(kind, refusal(&kind.value)));
    };
    let known = VERSIONS.map(|version| format!("{group}/{version}"));
    if !known.contains(&api_version.value) {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let expected = expected_one_of(&api_version.value, &known);
        let seen = quoted(&api_version.value);
        return Err(document.error(api_version, format!("unknown apiVersion {seen} of {name}{expected}")));
    }
    Ok(*read)
}

fn refusal(kind: &str) -> String {
    if NOT_READ.contains(&kind) {
        return format!(
            "{kind} is not supported by this version; so that it is not taken to be in force, the file is refused: take it \
             out of the mesh folder"
        );
    }
    if let Some((_, instead)) = KUBERNETES.iter().find(|(name, _)| *name == kind) {
        return format!("{kind} is a resource of Kubernetes and is not read here; {instead}");
    }
    if kind == "IstioOperator" {
        return ISTIO_OPERATOR.to_owned();
    }
    let known: Vec<&str> = READ.iter().map(|(name, ..)| *name).chain(NOT_READ).collect();
    let read: Vec<&str> = READ.iter().map(|(name, ..)| *name).collect();
    match crate::yaml::nearest(kind, &known) {
        Some(near) => format!("unknown kind {}; did you mean `{near}`?", quoted(kind)),
        None => format!("unknown kind {}{}", quoted(kind), expected_one_of(kind, &read)),
    }
}
