//! Sidecars in Kubernetes manifests: to each pod, or template of pods, an init container for the rules and the sidecar.
//!
//! The sidecar is an init container that goes on (`restartPolicy: Always`, Kubernetes 1.29), so that it is ready before the
//! app and its init containers begin, and ends with a job. In the plain form it is the first container, which holds the
//! others until it is ready. Who it is, it learns from the pod; its token is projected into the pod for the CA alone.

use std::collections::BTreeMap;

use super::service::{Service, file, registrations, services_file};
use super::{Beside, MARK, OPT_OUT, SIDECAR_UID, Wishes, opts_out, traffic};
use crate::spiffe::SpiffeId;
use crate::yaml::tree::Node;

/// The containers and volumes that are ours.
const INIT: &str = "pillion-init";
const PROXY: &str = "pillion-proxy";
const VOLUMES: [&str; 3] = ["pillion-token", "pillion-bundle", "pillion-mesh"];

/// Kinds that hold a pod or its template, and the way to it.
const KINDS: [(&str, &[&str]); 8] = [
    ("Pod", &[]),
    ("Deployment", &["spec", "template"]),
    ("StatefulSet", &["spec", "template"]),
    ("DaemonSet", &["spec", "template"]),
    ("ReplicaSet", &["spec", "template"]),
    ("ReplicationController", &["spec", "template"]),
    ("Job", &["spec", "template"]),
    ("CronJob", &["spec", "jobTemplate", "spec", "template"]),
];

/// A pod with its sidecar, as the mesh knows it.
struct Workload {
    namespace: String,
    account: String,
    labels: Vec<(String, String)>,
}

/// Changes the manifests, and says what stands beside them.
pub(super) fn inject(manifests: Vec<&mut Node>, wishes: &Wishes) -> Result<Beside, String> {
    let mut whole: Vec<&mut Node> = Vec::new();
    for manifest in manifests {
        if kind(manifest) == "List" {
            whole.extend(manifest.get_mut("items").and_then(Node::items_mut).into_iter().flatten());
        } else {
            whole.push(manifest);
        }
    }
    let closed: Vec<String> =
        whole.iter().filter(|node| is_closed_namespace(node)).map(|node| name(node)).collect();
    let mut notes = Vec::new();
    let mut workloads = Vec::new();
    for manifest in &mut whole {
        let Some((_, way)) = KINDS.iter().find(|(kind, _)| *kind == self::kind(manifest)) else { continue };
        let namespace = namespace(manifest, wishes);
        let told = format!("{} {}", kind(manifest), name(manifest));
        let is_job = told.starts_with("Job ") || told.starts_with("CronJob ");
        let pod = way.iter().try_fold(&mut **manifest, |node, key| node.get_mut(key));
        let Some(pod) = pod.filter(|pod| pod.get("spec").is_some()) else {
            return Err(format!("{told} has no pod: expected {}", [way, &["spec"][..]].concat().join(".")));
        };
        take_out(pod);
        if wishes.remove {
            continue;
        }
        if let Some(why) = why_not(pod, closed.contains(&namespace)) {
            notes.push(format!("{told} gets no sidecar: {why}"));
            continue;
        }
        if is_job && !wishes.native {
            notes.push(format!(
                "{told} does not end by itself, since its sidecar goes on: begin its command with `pillion run --`, or leave out \
                 --plain-sidecar"
            ));
        }
        let workload =
            put_in(pod, namespace, wishes, &mut notes).map_err(|error| format!("{told}: {error}"))?;
        notes.extend(probes(pod).into_iter().map(|note| format!("{told}: {note}")));
        workloads.push(workload);
    }
    if workloads.is_empty() {
        return Ok(Beside { notes, ..Beside::default() });
    }
    let services: Vec<Service> =
        whole.iter().filter_map(|node| service(node, namespace(node, wishes), &workloads)).collect();
    let files = vec![
        ("ca/registrations.yaml".to_owned(), registrations_file(&workloads, wishes)?),
        ("mesh/services.yaml".to_owned(), services_file(&services)),
    ];
    Ok(Beside { files, needs_files: false, notes })
}

fn kind(manifest: &Node) -> &str {
    manifest.get("kind").and_then(Node::as_text).unwrap_or_default()
}

fn name(manifest: &Node) -> String {
    let metadata = |key| manifest.at(&["metadata", key]).and_then(Node::as_text);
    metadata("name").or_else(|| metadata("generateName")).unwrap_or("without a name").to_owned()
}

fn namespace(manifest: &Node, wishes: &Wishes) -> String {
    let namespace = manifest.at(&["metadata", "namespace"]).and_then(Node::as_text);
    namespace.unwrap_or(&wishes.namespace).to_owned()
}

/// A namespace whose label keeps Istio's injection out.
fn is_closed_namespace(manifest: &Node) -> bool {
    let label = manifest.at(&["metadata", "labels", "istio-injection"]).and_then(Node::as_text);
    kind(manifest) == "Namespace" && label == Some("disabled")
}

fn pairs(node: Option<&Node>) -> Vec<(String, String)> {
    let entries = node.into_iter().flat_map(Node::entries);
    entries.map(|(key, value)| (key.to_owned(), value.as_text().unwrap_or_default().to_owned())).collect()
}

/// Why a pod is left alone. A pod's own word counts before its namespace's.
fn why_not(pod: &Node, in_closed_namespace: bool) -> Option<String> {
    let said = ["labels", "annotations"]
        .map(|where_| pod.at(&["metadata", where_, OPT_OUT]).and_then(Node::as_text));
    let said = said.into_iter().flatten().next();
    if opts_out(said) {
        return Some(format!("its {OPT_OUT} says so"));
    }
    if said.is_none() && in_closed_namespace {
        return Some("its namespace has the label istio-injection: disabled".to_owned());
    }
    let on_host = pod.at(&["spec", "hostNetwork"]).and_then(Node::as_text) == Some("true");
    on_host.then(|| "it is in the network of its host (hostNetwork)".to_owned())
}

fn put_in(
    pod: &mut Node,
    namespace: String,
    wishes: &Wishes,
    notes: &mut Vec<String>,
) -> Result<Workload, String> {
    let annotations = pairs(pod.at(&["metadata", "annotations"]));
    let labels = pairs(pod.at(&["metadata", "labels"]));
    let rules = traffic::arguments(&annotations)?;
    refuse_the_sidecars_user(pod)?;
    for annotation in traffic::unread(&annotations) {
        notes.push(format!("the annotation {annotation} changes nothing here"));
    }
    if pod.get("metadata").is_none() {
        pod.set("metadata", Node::map([]));
    }
    if let Some(annotations) =
        pod.get_mut("metadata").and_then(|metadata| metadata.entry("annotations", Node::map([])))
    {
        annotations.set(MARK, Node::text("true"));
    }
    let Some(spec) = pod.get_mut("spec") else { return Err("has no spec".to_owned()) };
    let account = spec.get("serviceAccountName").and_then(Node::as_text).unwrap_or("default").to_owned();
    let init = init_container(&rules, wishes);
    let proxy = proxy_container(&annotations, &labels, wishes);
    let list = || Node::list([]);
    if wishes.native {
        if let Some(containers) = spec.entry("initContainers", list()).and_then(Node::items_mut) {
            containers.splice(0..0, [init, proxy]);
        }
    } else {
        // Init containers of the app go before: behind the rules and before the sidecar nobody could call out.
        if let Some(containers) = spec.entry("initContainers", list()).and_then(Node::items_mut) {
            containers.push(init);
        }
        if let Some(containers) = spec.entry("containers", list()).and_then(Node::items_mut) {
            containers.insert(0, proxy);
        }
    }
    if let Some(volumes) = spec.entry("volumes", list()).and_then(Node::items_mut) {
        volumes.extend(self::volumes());
    }
    Ok(Workload { namespace, account, labels })
}

/// What runs as the sidecar's user would not be captured.
fn refuse_the_sidecars_user(pod: &Node) -> Result<(), String> {
    let spec = pod.get("spec").cloned().unwrap_or_default();
    let containers =
        ["containers", "initContainers"].into_iter().filter_map(|key| spec.get(key)).flat_map(Node::items);
    for owner in std::iter::once(&spec).chain(containers) {
        let user = owner.at(&["securityContext", "runAsUser"]).and_then(Node::as_text);
        if user.and_then(|user| user.parse().ok()) == Some(SIDECAR_UID) {
            return Err(format!(
                "runs as user {SIDECAR_UID}: what that user sends is taken for the sidecar's and not captured; give it another"
            ));
        }
    }
    Ok(())
}

fn init_container(rules: &[String], wishes: &Wishes) -> Node {
    let capabilities =
        Node::map([("drop", Node::texts(["ALL"])), ("add", Node::texts(["NET_ADMIN", "NET_RAW"]))]);
    Node::map([
        ("name", Node::text(INIT)),
        ("image", Node::text(&wishes.init_image)),
        ("args", Node::texts(rules)),
        (
            "securityContext",
            Node::map([
                ("runAsUser", Node::word(0)),
                ("runAsGroup", Node::word(0)),
                ("runAsNonRoot", Node::word(false)),
                ("allowPrivilegeEscalation", Node::word(false)),
                ("capabilities", capabilities),
            ]),
        ),
        ("resources", resources(&[])),
    ])
}

fn proxy_container(annotations: &[(String, String)], labels: &[(String, String)], wishes: &Wishes) -> Node {
    let annotation =
        |name: &str| annotations.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let image = annotation(traffic::PROXY_IMAGE).unwrap_or(&wishes.proxy_image);
    let mut arguments = vec![
        "--identity-ca-address".to_owned(),
        wishes.ca_address.clone(),
        "--identity-ca-token-file=/run/pillion/token/token".to_owned(),
        "--identity-ca-bundle-file=/run/pillion/bundle/bundle.pem".to_owned(),
        "--mesh=/etc/pillion/mesh".to_owned(),
        "--inbound-capture=0.0.0.0:15006".to_owned(),
        "--outbound-capture=127.0.0.1:15001".to_owned(),
        format!("--workload-trust-domain={}", wishes.trust_domain.as_str()),
    ];
    arguments.extend(labels.iter().map(|(key, value)| format!("--workload-labels={key}={value}")));
    let from_pod = |variable: &str, path: &str| {
        let field = Node::map([("fieldPath", Node::text(path))]);
        let from = Node::map([("fieldRef", field)]);
        Node::map([("name", Node::text(variable)), ("valueFrom", from)])
    };
    let mount = |volume: &str, path: &str| {
        Node::map([
            ("name", Node::text(volume)),
            ("mountPath", Node::text(path)),
            ("readOnly", Node::word(true)),
        ])
    };
    let mut container = Node::map([
        ("name", Node::text(PROXY)),
        ("image", Node::text(image)),
        ("args", Node::list(arguments.into_iter().map(Node::text))),
        (
            "env",
            Node::list([
                from_pod("PILLION_WORKLOAD_NAMESPACE", "metadata.namespace"),
                from_pod("PILLION_WORKLOAD_SERVICE_ACCOUNT", "spec.serviceAccountName"),
            ]),
        ),
        (
            "volumeMounts",
            Node::list([
                mount("pillion-token", "/run/pillion/token"),
                mount("pillion-bundle", "/run/pillion/bundle"),
                mount("pillion-mesh", "/etc/pillion/mesh"),
            ]),
        ),
        (
            "securityContext",
            Node::map([
                ("runAsUser", Node::word(SIDECAR_UID)),
                ("runAsGroup", Node::word(SIDECAR_UID)),
                ("runAsNonRoot", Node::word(true)),
                ("allowPrivilegeEscalation", Node::word(false)),
                ("readOnlyRootFilesystem", Node::word(true)),
                ("capabilities", Node::map([("drop", Node::texts(["ALL"]))])),
            ]),
        ),
        ("readinessProbe", probe(30)),
        ("resources", resources(annotations)),
    ]);
    if wishes.native {
        container.set("restartPolicy", Node::text("Always"));
        container.set("startupProbe", probe(600));
    } else {
        let command = Node::texts(["pillion", "wait", "--timeout", "60s"]);
        let exec = Node::map([("exec", Node::map([("command", command)]))]);
        container.set("lifecycle", Node::map([("postStart", exec)]));
    }
    container
}

fn probe(failures: u32) -> Node {
    let get = Node::map([("path", Node::text("/healthz/ready")), ("port", Node::word(15021))]);
    Node::map([
        ("httpGet", get),
        ("periodSeconds", Node::word(1)),
        ("timeoutSeconds", Node::word(3)),
        ("failureThreshold", Node::word(failures)),
    ])
}

fn resources(annotations: &[(String, String)]) -> Node {
    let mut resources =
        Node::map([("requests", Node::map([("cpu", Node::text("10m")), ("memory", Node::text("32Mi"))]))]);
    for (name, of, what) in traffic::RESOURCES {
        let Some((_, value)) = annotations.iter().find(|(key, _)| key == name) else { continue };
        if let Some(there) = resources.entry(of, Node::map([])) {
            there.set(what, Node::text(value));
        }
    }
    resources
}

fn volumes() -> [Node; 3] {
    let token = Node::map([
        ("audience", Node::text("pillion-ca")),
        ("expirationSeconds", Node::word(3600)),
        ("path", Node::text("token")),
    ]);
    let sources = Node::list([Node::map([("serviceAccountToken", token)])]);
    let map = |name: &str, is_optional: bool| {
        let optional = is_optional.then(|| ("optional", Node::word(true)));
        Node::map([("name", Node::text(name))].into_iter().chain(optional))
    };
    let [token, bundle, mesh] = VOLUMES;
    [
        Node::map([("name", Node::text(token)), ("projected", Node::map([("sources", sources)]))]),
        Node::map([("name", Node::text(bundle)), ("configMap", map(bundle, false))]),
        Node::map([("name", Node::text(mesh)), ("configMap", map(mesh, true))]),
    ]
}

/// Probes that STRICT would refuse: the kubelet has no certificate.
fn probes(pod: &Node) -> Vec<String> {
    let mut notes = Vec::new();
    for container in pod.at(&["spec", "containers"]).into_iter().flat_map(Node::items) {
        let name = container.get("name").and_then(Node::as_text).unwrap_or_default();
        if name == PROXY {
            continue;
        }
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let asks =
                ["httpGet", "tcpSocket", "grpc"].iter().find_map(|how| container.at(&[probe, how, "port"]));
            if let Some(port) = asks.and_then(Node::as_text) {
                notes.push(format!(
                    "{probe} of {name} comes to port {port} in plaintext, which STRICT refuses; give probes a port of their own, with \
                     the annotation traffic.sidecar.istio.io/excludeInboundPorts, or let that port be PERMISSIVE by portLevelMtls"
                ));
            }
        }
    }
    notes
}

/// Takes out what was injected before.
fn take_out(pod: &mut Node) {
    let is_marked = pod.at(&["metadata", "annotations", MARK]).is_some();
    if !is_marked {
        return;
    }
    if let Some(metadata) = pod.get_mut("metadata") {
        metadata.prune("annotations", |annotations| annotations.retain(|key, _| key != MARK));
        if metadata.is_empty() {
            pod.remove("metadata");
        }
    }
    let Some(spec) = pod.get_mut("spec") else { return };
    let is_named = |node: &Node, names: &[&str]| {
        node.get("name").and_then(Node::as_text).is_some_and(|name| names.contains(&name))
    };
    for (key, names) in
        [("initContainers", &[INIT, PROXY][..]), ("containers", &[PROXY]), ("volumes", &VOLUMES)]
    {
        spec.prune(key, |list| {
            if let Some(items) = list.items_mut() {
                items.retain(|item| !is_named(item, names));
            }
        });
    }
}

/// What the mesh folder is told of a Service whose pods get sidecars here.
fn service(manifest: &Node, namespace: String, workloads: &[Workload]) -> Option<Service> {
    if kind(manifest) != "Service" {
        return None;
    }
    let selector = pairs(manifest.at(&["spec", "selector"]));
    let selects = |workload: &&Workload| {
        workload.namespace == namespace && selector.iter().all(|pair| workload.labels.contains(pair))
    };
    let workload = workloads.iter().find(selects).filter(|_| !selector.is_empty())?;
    let name = name(manifest);
    let mut ports = BTreeMap::new();
    for port in manifest.at(&["spec", "ports"]).into_iter().flat_map(Node::items) {
        let text = |key: &str| port.get(key).and_then(Node::as_text).unwrap_or_default();
        if let (Ok(number), "" | "TCP") = (text("port").parse::<u16>(), text("protocol")) {
            let begins =
                |text: &str| text == "http" || text.starts_with("http-") || text.starts_with("http2");
            ports.insert(number, begins(text("name")) || begins(text("appProtocol")));
        }
    }
    Some(Service {
        hosts: vec![format!("{name}.{namespace}.svc.cluster.local"), format!("{name}.{namespace}.svc")],
        name,
        namespace,
        ports,
        workload: Some((workload.account.clone(), workload.labels.iter().cloned().collect())),
    })
}

fn registrations_file(workloads: &[Workload], wishes: &Wishes) -> Result<String, String> {
    let mut identities = Vec::new();
    for workload in workloads {
        let id = SpiffeId::of_service_account(&wishes.trust_domain, &workload.namespace, &workload.account)
            .map_err(|error| error.to_string())?;
        if !identities.iter().any(|(known, _)| known == id.as_str()) {
            identities.push((id.to_string(), None));
        }
    }
    let root = Node::map([("registrations", registrations(identities))]);
    Ok(file("For the settings of the CA: docs/how-to/inject.md.", root))
}
