//! Policies and what is asked of them, drawn by a generator whose seed is printed.
//!
//! Nothing is drawn on which pillion differs from Envoy by design: that is [`super::differences`]'s.

use super::policy::{Action, Field, OWN_APP, OWN_NAMESPACE, Policy, ROOT_NAMESPACE, Rule};
use super::stage::{Asked, Caller, Request};

/// The two ports of the workload.
pub(super) type Ports = [u16; 2];

/// Draws policies and questions.
pub(super) struct Generator {
    rng: fastrand::Rng,
    ports: Ports,
    /// Whether this set's policies and questions speak of ports of hosts. A host without a port in a policy is, to pillion,
    /// the host with any.
    host_ports: bool,
}

const PRINCIPALS: &[&str] = &[
    "cluster.local/ns/default/sa/frontend",
    "cluster.local/ns/production/sa/payments",
    "cluster.local/ns/prod-eu/sa/frontend",
    "cluster.local/ns/default/*",
    "cluster.local/ns/prod*",
    "other.example/ns/default/sa/frontend",
    "*/sa/frontend",
    "*/ns/production/sa/payments",
    "*s",
    "*",
];
const NAMESPACES: &[&str] = &["default", "production", "prod-eu", "prod*", "*eu", "*ion", "testing", "*"];
const ACCOUNTS: &[&str] =
    &["frontend", "payments", "default/frontend", "production/payments", "prod-eu/frontend", "default/front"];
const TRUST_DOMAINS: &[&str] = &["cluster.local", "other.example", "*.local", "cluster.*", "*"];
const BLOCKS: &[&str] =
    &["127.0.0.1", "127.0.0.2", "127.1.0.0/16", "127.0.0.0/8", "10.0.0.0/8", "127.0.0.0/16"];
const REMOTE_BLOCKS: &[&str] = &["10.1.0.1", "10.1.0.0/16", "10.2.0.0/16", "127.0.0.0/8", "127.1.0.0/16"];
const DESTINATION_BLOCKS: &[&str] = &["127.0.0.0/8", "10.0.0.0/8", "0.0.0.0/0"];
const METHODS: &[&str] = &["GET", "POST", "PUT", "DELETE", "P*", "*T", "*E", "*"];
const HOSTS: &[&str] =
    &["shop.test", "Api.Shop.Test", "*.shop.test", "api.*", "*.test", "other.example", "*"];
const HOSTS_WITH_PORTS: &[&str] = &["shop.test:80", "shop.test:*", "*.test:8080", "*:80", "api.*", "*"];
const PATHS: &[&str] = &[
    "/",
    "/api",
    "/api/*",
    "/api*",
    "*/orders",
    "*.js",
    "/api/v1/orders",
    "/api/v1/orders/7",
    "/api/{*}/orders",
    "/api/v1/{**}",
    "/{*}/v1/{**}/7",
    "/{**}/orders",
    "/{**}",
    "/admin",
    "/admin/*",
    "*",
];
const TARGETS_OF_HEADERS: &[&str] = &["/api/*", "/admin*", "*?all", "/api/v1/orders?all", "*"];
const TEAMS: &[&str] = &["red", "r*", "*d", "blue", "red,blue", "*"];
const SNIS: &[&str] = &["api.shop.test", "*.shop.test", "api.*", "other.example", "*"];

impl Generator {
    pub(super) fn new(seed: u64, ports: Ports) -> Self {
        Self { rng: fastrand::Rng::with_seed(seed), ports, host_ports: false }
    }

    /// Policies of one workload. Most let some callers in and others not.
    pub(super) fn policies(&mut self) -> Vec<Policy> {
        self.host_ports = self.one_in(4);
        let mut policies = Vec::new();
        let (allow, deny) =
            self.of(&[(1, 0), (1, 0), (2, 0), (3, 0), (2, 1), (3, 1), (0, 1), (0, 2), (2, 2)]);
        for (action, count) in [(Action::Allow, allow), (Action::Deny, deny)] {
            for _ in 0..count {
                policies.push(self.policy(action));
            }
        }
        if self.one_in(5) {
            policies.push(self.policy(Action::Audit));
        }
        if self.one_in(5) {
            let action = self.of(&[Action::Allow, Action::Deny]);
            policies.push(Policy { dry_run: true, ..self.policy(action) });
        }
        if self.one_in(12) {
            // Allows nothing by itself, and nothing that others do not.
            policies.push(Policy { rules: Vec::new(), ..self.policy(Action::Allow) });
        }
        for (number, policy) in policies.iter_mut().enumerate() {
            policy.name = format!("p{number}");
        }
        policies
    }

    fn policy(&mut self, action: Action) -> Policy {
        let of_action = if action == Action::Allow { 1..=3 } else { 1..=2 };
        let rules = self.rng.usize(of_action);
        Policy {
            name: String::new(),
            namespace: self.of(&[OWN_NAMESPACE, OWN_NAMESPACE, OWN_NAMESPACE, ROOT_NAMESPACE, "elsewhere"]),
            app: self.of(&[None, None, Some(OWN_APP), Some(OWN_APP), Some("another")]),
            action,
            dry_run: false,
            rules: (0..rules).map(|_| self.rule()).collect(),
        }
    }

    fn rule(&mut self) -> Rule {
        if self.one_in(30) {
            return Rule::default();
        }
        let (from, to, when) =
            self.of(&[(1, 0, 0), (1, 1, 0), (0, 1, 0), (2, 1, 0), (0, 2, 0), (1, 0, 1), (0, 1, 1)]);
        Rule {
            from: (0..from).map(|_| self.source()).collect(),
            to: (0..to).map(|_| self.operation()).collect(),
            when: (0..when).map(|_| self.condition()).collect(),
        }
    }

    fn source(&mut self) -> Vec<Field> {
        // Istio lets serviceAccounts stand beside neither principals nor namespaces.
        let known: &[(&'static str, &[&str])] = if self.one_in(3) {
            &[("serviceAccounts", ACCOUNTS), ("trustDomains", TRUST_DOMAINS), ("ipBlocks", BLOCKS)]
        } else {
            &[
                ("principals", PRINCIPALS),
                ("principals", PRINCIPALS),
                ("namespaces", NAMESPACES),
                ("trustDomains", TRUST_DOMAINS),
                ("ipBlocks", BLOCKS),
                ("remoteIpBlocks", REMOTE_BLOCKS),
            ]
        };
        self.fields(known)
    }

    fn operation(&mut self) -> Vec<Field> {
        let hosts = if self.host_ports { HOSTS_WITH_PORTS } else { HOSTS };
        let ports = self.ports.map(|port| port.to_string());
        let ports: Vec<&str> = ports.iter().map(String::as_str).chain(["9"]).collect();
        self.fields(&[
            ("paths", PATHS),
            ("paths", PATHS),
            ("methods", METHODS),
            ("hosts", hosts),
            ("ports", &ports),
        ])
    }

    fn condition(&mut self) -> Field {
        let ports = self.ports.map(|port| port.to_string());
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        let (name, known) = self.of(&[
            ("source.principal", PRINCIPALS),
            ("source.namespace", NAMESPACES),
            ("source.serviceAccount", ACCOUNTS),
            ("source.trustDomain", TRUST_DOMAINS),
            ("source.ip", BLOCKS),
            ("remote.ip", REMOTE_BLOCKS),
            ("destination.ip", DESTINATION_BLOCKS),
            ("destination.port", &ports),
            ("connection.sni", SNIS),
            ("request.headers[X-Team]", TEAMS),
            ("request.headers[x-team]", TEAMS),
            ("request.headers[:path]", TARGETS_OF_HEADERS),
            ("request.headers[:method]", METHODS),
        ]);
        self.field(name, known)
    }

    /// One field or two.
    fn fields(&mut self, known: &[(&'static str, &[&str])]) -> Vec<Field> {
        let count = self.rng.usize(1..=2);
        let mut fields: Vec<Field> = Vec::new();
        while fields.len() < count {
            let (name, values) = self.of(known);
            if !fields.iter().any(|field| field.name == name) {
                fields.push(self.field(name, values));
            }
        }
        fields
    }

    fn field(&mut self, name: &'static str, known: &[&str]) -> Field {
        let (some, not) = self.of(&[(1, 0), (1, 0), (2, 0), (3, 0), (2, 1), (0, 1), (0, 2)]);
        let mut values = |count| (0..count).map(|_| self.of(known).to_owned()).collect();
        Field { name, values: values(some), not_values: values(not) }
    }

    /// A question to the workload, by HTTP or else as a connection alone.
    pub(super) fn asked(&mut self, http: bool) -> Asked {
        let caller = self.of(&[Caller::Frontend, Caller::Payments, Caller::FrontendEu, Caller::Nobody]);
        let sni = self.of(&[None, Some("api.shop.test"), Some("www.shop.test"), Some("other.example")]);
        Asked {
            caller,
            source: self.of(&["127.0.0.1", "127.0.0.2", "127.1.0.1", "127.2.0.9"]),
            port: self.rng.usize(0..2),
            sni: sni.filter(|_| caller != Caller::Nobody),
            request: http.then(|| self.request(caller)),
        }
    }

    fn request(&mut self, caller: Caller) -> Request {
        let mut fields = Vec::new();
        let team: &[&str] =
            self.of(&[&[] as &[&str], &["red"], &["blue"], &["red", "red"], &["yellow"], &[""]]);
        for value in team {
            fields.push(("x-TEAM", (*value).to_owned()));
        }
        // Envoy believes this of anybody, pillion of those that it is told to trust.
        if caller == Caller::Frontend && self.one_in(2) {
            let forwarded = self.of(&["10.1.0.1", "10.2.0.1", "10.1.0.1, 10.2.0.9"]);
            fields.push(("X-Forwarded-For", forwarded.to_owned()));
        }
        let hosts: &[&str] = if self.host_ports {
            &["shop.test", "shop.test:80", "SHOP.test:8080", "api.shop.test:80", "other.example:80"]
        } else {
            &["shop.test", "SHOP.Test", "api.shop.test", "www.shop.test", "other.example"]
        };
        Request {
            method: self.of(&["GET", "GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE"]),
            target: self.target(),
            host: self.of(hosts),
            fields,
        }
    }

    /// A path in one of its spellings, with a query or without.
    fn target(&mut self) -> String {
        let path = self.of(&[
            "/",
            "/api",
            "/api/",
            "/api/v1/orders",
            "/api/v1/orders",
            "/api/v1/orders/7",
            "/api/v1/orders/7",
            "/api/v2/orders",
            "/v1/orders",
            "/admin",
            "/admin/users",
            "/administration",
            "/static/app.js",
            "/a;x=1/b",
            "/a%20b/~c",
            "/a%3Ab/c:d@e",
            "/%C3%A9/%25",
            "/a+b/(c)!*'$&,=",
            "/x/v1/a/b/7",
        ]);
        let separators: &[&str] = if path == "/" {
            &["/", "/", "/./", "/x/../"]
        } else {
            &["/", "/", "/", "/", "/", "//", "/./", "/x/../", "%2f", "%2F", "\\", "%5C", "/%2e/"]
        };
        let mut target = String::new();
        for segment in path.split('/').skip(1) {
            target += self.of(separators);
            for c in segment.chars() {
                if c.is_ascii_alphanumeric() && !segment.contains('%') && self.one_in(30) {
                    target += &format!("%{:02x}", u32::from(c));
                } else {
                    target.push(c);
                }
            }
        }
        if !target.starts_with('/') {
            target.insert(0, '/');
        }
        target += self.of(&["", "", "", "", "?all", "?to=/admin", "?"]);
        target
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.rng.usize(0..list.len())]
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.rng.usize(0..count) == 0
    }
}
