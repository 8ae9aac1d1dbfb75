//! How destinations are reached, against a second, naive model: what Istio says of DestinationRule, auto mTLS and secure
//! naming, word for word and without any thought of cost.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::Write;

use pillion_mesh::policy::Snapshot;
use pillion_mesh::policy::dial::DialTls;
use pillion_mesh::resource::Resources;
use pillion_mesh::workload::{MeshConfig, Workload};
use proptest::prelude::*;

const ROOT: &str = "istio-system";
const HOSTS: &[&str] = &["a.x.test", "b.x.test", "a.y.test", "*.x.test"];
const RULE_HOSTS: &[&str] = &["a.x.test", "b.x.test", "*.x.test", "*.test", "*", "a.y.test"];
const MODES: &[&str] = &["DISABLE", "SIMPLE", "ISTIO_MUTUAL"];

#[derive(Debug, Clone)]
struct Service {
    namespace: &'static str,
    host: &'static str,
    is_internal: bool,
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone)]
struct Endpoint {
    has_sidecar: bool,
    takes_tunnels: bool,
    account: Option<&'static str>,
    version: &'static str,
}

#[derive(Debug, Clone)]
struct Authentication {
    namespace: &'static str,
    version: Option<&'static str>,
    mode: Option<&'static str>,
    port: Option<&'static str>,
}

#[derive(Debug, Clone)]
struct Rule {
    namespace: &'static str,
    host: &'static str,
    tls: Option<&'static str>,
    /// Of port 80; the inner `None` is a setting without `tls`.
    port: Option<Option<&'static str>>,
    export_to: Option<&'static str>,
    selected: Option<&'static str>,
}

#[derive(Debug, Clone)]
struct Mesh {
    client: &'static str,
    services: Vec<Service>,
    authentications: Vec<Authentication>,
    rules: Vec<Rule>,
}

/// Services have ports 80 and 81, both behind port 8080 of their endpoints.
fn address(service: usize, endpoint: usize) -> String {
    format!("10.0.{service}.{endpoint}")
}

impl Mesh {
    fn text(&self) -> String {
        let mut text = String::new();
        for (number, service) in self.services.iter().enumerate() {
            let Service { namespace, host, is_internal, endpoints } = service;
            let location = if *is_internal { "MESH_INTERNAL" } else { "MESH_EXTERNAL" };
            let endpoint = |(place, endpoint): (usize, &Endpoint)| {
                let Endpoint { has_sidecar, takes_tunnels, account, version } = endpoint;
                let sidecar = if *has_sidecar { ", security.istio.io/tlsMode: istio" } else { "" };
                let tunnel = if *takes_tunnels { ", networking.istio.io/tunnel: http" } else { "" };
                let account = account.map(|name| format!(", serviceAccount: {name}")).unwrap_or_default();
                format!(
                    "{{address: {}, labels: {{version: {version}{sidecar}{tunnel}}}{account}}}",
                    address(number, place)
                )
            };
            let endpoints: Vec<String> = endpoints.iter().enumerate().map(endpoint).collect();
            writeln!(
                text,
                "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
                 metadata: {{name: s{number}, namespace: {namespace}}}\n\
                 spec: {{hosts: ['{host}'], location: {location}, resolution: STATIC, ports: [\
                 {{number: 80, name: a, targetPort: 8080}}, {{number: 81, name: b, targetPort: 8081}}], \
                 endpoints: [{}]}}",
                endpoints.join(", ")
            )
            .unwrap();
        }
        for (number, authentication) in self.authentications.iter().enumerate() {
            let Authentication { namespace, version, mode, port } = authentication;
            let selector = version
                .map(|version| format!("selector: {{matchLabels: {{version: {version}}}}}, "))
                .unwrap_or_default();
            let port = port
                .filter(|_| version.is_some())
                .map(|mode| format!(", portLevelMtls: {{8080: {{mode: {mode}}}}}"))
                .unwrap_or_default();
            writeln!(
                text,
                "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                 metadata: {{name: p{number}, namespace: {namespace}}}\n\
                 spec: {{{selector}mtls: {{mode: {}}}{port}}}",
                mode.unwrap_or("UNSET")
            )
            .unwrap();
        }
        for (number, rule) in self.rules.iter().enumerate() {
            let Rule { namespace, host, tls, port, export_to, selected } = rule;
            let tls_of = |mode: &Option<&str>| mode.map(|mode| format!("tls: {{mode: {mode}}}"));
            let port = port.as_ref().map(|tls| {
                let tls = tls_of(tls).map(|tls| format!(", {tls}")).unwrap_or_default();
                format!("portLevelSettings: [{{port: {{number: 80}}{tls}}}]")
            });
            let policy: Vec<String> = tls_of(tls).into_iter().chain(port).collect();
            let export = export_to.map(|to| format!(", exportTo: ['{to}']")).unwrap_or_default();
            let selector = selected
                .map(|app| format!(", workloadSelector: {{matchLabels: {{app: {app}}}}}"))
                .unwrap_or_default();
            writeln!(
                text,
                "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
                 metadata: {{name: r{number}, namespace: {namespace}}}\n\
                 spec: {{host: '{host}', trafficPolicy: {{{}}}{export}{selector}}}",
                policy.join(", ")
            )
            .unwrap();
        }
        text
    }

    fn snapshot(&self) -> Snapshot {
        let mut resources = Resources::default();
        let text = self.text();
        resources.read("mesh.yaml", &text).unwrap_or_else(|fault| panic!("{fault}\n{text}"));
        let client = Workload {
            name: "web".to_owned(),
            trust_domain: "cluster.local".parse().unwrap(),
            namespace: self.client.to_owned(),
            service_account: "web".to_owned(),
            labels: [("app".to_owned(), "web".to_owned())].into(),
        };
        Snapshot::build(&resources, &client, &MeshConfig::default())
    }

    /// "An explicit DR tls block always wins." "Otherwise per endpoint: has `tlsMode: istio` and PA for its port is not
    /// DISABLE: mTLS; else plaintext." "With `tunnel: http` mTLS is in a tunnel to port 15008, whatever else it has." "MESH_EXTERNAL never." "Server SAN must exactly equal one of the service's
    /// endpoint accounts."
    fn expected(&self, service: &Service, endpoint: &Endpoint, port: u16) -> String {
        let mut accounts: Vec<String> = service
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.account)
            .map(|account| format!("cluster.local/ns/{}/sa/{account}", service.namespace))
            .collect();
        accounts.sort();
        accounts.dedup();
        let mutual = || {
            let host = service.host.trim_start_matches("*.");
            match accounts.as_slice() {
                [] => "refused".to_owned(),
                accounts if endpoint.takes_tunnels => format!("port 15008 {}", accounts.join(" ")),
                accounts => format!("outbound_.{port}_._.{host} {}", accounts.join(" ")),
            }
        };
        let rule = self.rule_for(service);
        let explicit = rule.and_then(|rule| match rule.port {
            Some(of_port) if port == 80 => of_port,
            _ => rule.tls,
        });
        let target = if port == 80 { 8080 } else { 8081 };
        match explicit {
            Some("DISABLE") => "plaintext".to_owned(),
            Some("ISTIO_MUTUAL") => mutual(),
            Some(_) if service.host.starts_with('*') => "refused".to_owned(),
            Some(_) => format!("TLS with {0} as {0}", service.host),
            None if !service.is_internal || !(endpoint.has_sidecar || endpoint.takes_tunnels) => {
                "plaintext".to_owned()
            }
            None if self.mode_of(service.namespace, endpoint.version, target) == "DISABLE" => {
                "plaintext".to_owned()
            }
            None => mutual(),
        }
    }

    /// "A rule of the client's namespace, else of the service's, else of the root namespace; the most specific host". A
    /// client of the root namespace looks at the service's first.
    fn rule_for(&self, service: &Service) -> Option<&Rule> {
        let client = if self.client == ROOT { service.namespace } else { self.client };
        [client, service.namespace, ROOT].into_iter().find_map(|namespace| {
            let mut best: Option<&Rule> = None;
            for rule in self.rules.iter().filter(|rule| rule.namespace == namespace) {
                let specific = |rule: &Rule| (!rule.host.starts_with('*'), rule.host.len());
                let is_better = best.is_none_or(|best| specific(rule) > specific(best));
                if self.is_visible(rule) && takes(rule.host, service.host) && is_better {
                    best = Some(rule);
                }
            }
            best
        })
    }

    fn is_visible(&self, rule: &Rule) -> bool {
        match (rule.selected, rule.export_to) {
            (Some(app), _) => rule.namespace == self.client && app == "web",
            (None, None | Some("*")) => true,
            (None, Some(".")) => rule.namespace == self.client,
            (None, Some(namespace)) => namespace == self.client,
        }
    }

    fn mode_of(&self, namespace: &str, version: &str, port: u16) -> &str {
        let first = |namespace: &str, version: Option<&str>| {
            self.authentications.iter().find(|one| one.namespace == namespace && one.version == version)
        };
        let of_workload = first(namespace, Some(version)).filter(|_| namespace != ROOT);
        let of_namespace = first(namespace, None).filter(|_| namespace != ROOT);
        of_workload
            .and_then(|policy| policy.port.filter(|_| port == 8080))
            .or(of_workload.and_then(|policy| policy.mode))
            .or(of_namespace.and_then(|policy| policy.mode))
            .or(first(ROOT, None).and_then(|policy| policy.mode))
            .unwrap_or("PERMISSIVE")
    }
}

/// `*` and `*.x` take what ends so, a service whose own host begins so among them.
fn takes(rule: &str, host: &str) -> bool {
    match rule.strip_prefix('*') {
        Some(end) => host.trim_start_matches('*').ends_with(end),
        None => rule == host,
    }
}

fn in_short(tls: &DialTls) -> String {
    match tls {
        DialTls::Plaintext => "plaintext".to_owned(),
        DialTls::IstioMutual { sni, identities } => {
            let identities: Vec<&str> = identities.iter().map(|identity| identity.principal()).collect();
            format!("{sni} {}", identities.join(" "))
        }
        DialTls::Tunnel { door, identities } => {
            let identities: Vec<&str> = identities.iter().map(|identity| identity.principal()).collect();
            format!("port {} {}", door.port(), identities.join(" "))
        }
        DialTls::Originate { server_name, names, .. } => {
            format!("TLS with {} as {}", server_name.as_deref().unwrap_or_default(), names.join(" "))
        }
        DialTls::Refuse(_) => "refused".to_owned(),
    }
}

fn mesh() -> impl Strategy<Value = Mesh> {
    let select = prop::sample::select::<&'static str>;
    let namespaces = || select(vec!["web", "shop", ROOT]);
    let mode = || prop::option::of(select(MODES.to_vec()));
    let endpoint = (any::<[bool; 2]>(), select(vec!["one", "two"]), any::<bool>(), select(vec!["v1", "v2"]))
        .prop_map(|([has_sidecar, takes_tunnels], account, has_account, version)| Endpoint {
            account: Some(account).filter(|_| has_sidecar || takes_tunnels || has_account),
            has_sidecar,
            takes_tunnels,
            version,
        });
    let service = (
        select(vec!["web", "shop"]),
        select(HOSTS.to_vec()),
        any::<bool>(),
        prop::collection::vec(endpoint, 1..3),
    )
        .prop_map(|(namespace, host, is_internal, endpoints)| Service {
            namespace,
            host,
            is_internal,
            endpoints,
        });
    let accepted = || prop::option::of(select(vec!["STRICT", "PERMISSIVE", "DISABLE"]));
    let authentication = (namespaces(), prop::option::of(select(vec!["v1", "v2"])), accepted(), accepted())
        .prop_map(|(namespace, version, mode, port)| Authentication { namespace, version, mode, port });
    let rule = (
        namespaces(),
        select(RULE_HOSTS.to_vec()),
        mode(),
        prop::option::of(mode()),
        prop::option::of(select(vec!["*", ".", "web", "shop"])),
        prop::option::weighted(0.2, select(vec!["web", "other"])),
    )
        .prop_map(|(namespace, host, tls, port, export_to, selected)| Rule {
            namespace,
            host,
            tls,
            port,
            export_to,
            selected,
        });
    (
        select(vec!["web", "web", ROOT]),
        prop::collection::vec(service, 1..3),
        prop::collection::vec(authentication, 0..4),
        prop::collection::vec(rule, 0..5),
    )
        .prop_map(|(client, services, authentications, rules)| Mesh {
            client,
            services,
            authentications,
            rules,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn destinations_are_reached_as_the_text_says(mesh in mesh()) {
        let snapshot = mesh.snapshot();
        for (number, service) in mesh.services.iter().enumerate() {
            for (place, endpoint) in service.endpoints.iter().enumerate() {
                for port in [80, 81] {
                    let dialled = format!("{}:{port}", address(number, place)).parse().unwrap();
                    let found = snapshot.registry.lookup(dialled, 0).unwrap();
                    let plan = snapshot.plan(Some(&found));
                    let expected = mesh.expected(service, endpoint, port);
                    prop_assert_eq!(in_short(&plan.tls), expected, "{}: {}\n{}", dialled, plan.because, mesh.text());
                }
            }
        }
    }
}
