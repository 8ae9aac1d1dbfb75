//! Resources by the thousand, of every kind and in every shape that is looked up by: as YAML text, as files hold them.

use std::fmt::Write;

use pillion_mesh::policy::Snapshot;
use pillion_mesh::registry::Addresses;
use pillion_mesh::resource::Resources;
use pillion_mesh::workload::{MeshConfig, Workload};

/// The kinds of addresses that endpoints come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Many services of two endpoints each.
    ManyServices,
    /// One service of all endpoints.
    OneService,
    /// `WorkloadEntry` resources, ten for each service that selects them.
    Selected,
    /// Services whose hosts DNS looks up.
    Named,
}

impl Shape {
    /// Every shape.
    pub const ALL: [Shape; 4] = [Shape::ManyServices, Shape::OneService, Shape::Selected, Shape::Named];

    /// For a table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Shape::ManyServices => "many services",
            Shape::OneService => "one service",
            Shape::Selected => "workload entries",
            Shape::Named => "names of DNS",
        }
    }
}

/// Files of a mesh folder.
#[derive(Debug, Clone, Default)]
pub struct Files(Vec<String>);

impl Files {
    /// `count` policies: PeerAuthentications with selectors, AuthorizationPolicies for [`workload`] by everything that
    /// they can ask for, DestinationRules.
    #[must_use]
    pub fn policies(count: usize) -> Self {
        let mut files = Self::default();
        for number in 0..count {
            files.add(number, |text| write!(text, "{}", policy(number)).unwrap());
        }
        files
    }

    /// `count` endpoints and their services.
    #[must_use]
    pub fn endpoints(count: usize, shape: Shape) -> Self {
        let mut files = Self::default();
        match shape {
            Shape::ManyServices => {
                for number in 0..count.div_ceil(2) {
                    files.add(number, |text| {
                        let endpoints = [2 * number, 2 * number + 1].map(|endpoint| address(10, endpoint));
                        service(text, &format!("s{number}"), "STATIC", &endpoints);
                    });
                }
            }
            Shape::OneService => files.add(0, |text| {
                let endpoints: Vec<String> = (0..count).map(|endpoint| address(10, endpoint)).collect();
                service(text, "huge", "STATIC", &endpoints);
            }),
            Shape::Selected => {
                for number in 0..count.div_ceil(10) {
                    files.add(number, |text| selecting_service(text, number));
                }
                for number in 0..count {
                    files.add(number, |text| workload_entry(text, number));
                }
            }
            Shape::Named => {
                for number in 0..count {
                    files.add(number, |text| service(text, &format!("n{number}"), "DNS", &[]));
                }
            }
        }
        files
    }

    /// One Gateway, `count` hosts behind it, and one host with `count` paths.
    #[must_use]
    pub fn routes(count: usize) -> Self {
        let mut files = Self::default();
        files.add(0, |text| {
            text.push_str(
                "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: prod}\n\
                 spec: {servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}\n",
            );
        });
        for number in 0..count {
            files.add(number, |text| {
                let host = format!("h{number}.example");
                virtual_service(text, &format!("h{number}"), &host, "");
                let path = format!("match: [{{uri: {{prefix: /p{number}/}}}}], ");
                virtual_service(text, &format!("p{number}"), "paths.example", &path);
            });
        }
        files
    }

    /// These and those.
    #[must_use]
    pub fn and(mut self, mut others: Self) -> Self {
        self.0.append(&mut others.0);
        self
    }

    /// How many bytes they hold.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.iter().map(String::len).sum()
    }

    /// The files as resources.
    ///
    /// # Panics
    /// Where one is refused.
    #[must_use]
    pub fn read(&self) -> Resources {
        let mut resources = Resources::default();
        for (number, text) in self.0.iter().enumerate() {
            resources.read(&format!("{number}.yaml"), text).unwrap_or_else(|fault| panic!("{fault}"));
        }
        resources
    }

    /// A hundred documents to a file.
    fn add(&mut self, number: usize, write: impl FnOnce(&mut String)) {
        if number.is_multiple_of(100) {
            self.0.push(String::new());
        }
        if let Some(file) = self.0.last_mut() {
            file.push_str("---\n");
            write(file);
        }
    }
}

/// The workload whose snapshot is built.
///
/// # Panics
/// Never.
#[must_use]
pub fn workload() -> Workload {
    Workload {
        name: "me".to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: "prod".to_owned(),
        service_account: "me".to_owned(),
        labels: [("app".to_owned(), "me".to_owned())].into(),
    }
}

/// What the resources mean for [`workload`].
#[must_use]
pub fn snapshot(resources: &Resources) -> Snapshot {
    Snapshot::build(resources, &workload(), &MeshConfig::default())
}

/// An address for each name of a snapshot.
///
/// # Panics
/// Never.
#[must_use]
pub fn addresses(snapshot: &Snapshot) -> Addresses {
    let names = snapshot.registry.names_to_resolve().iter().enumerate();
    names.map(|(number, name)| (name.clone(), vec![address(11, number).parse().unwrap()])).collect()
}

/// The address of an endpoint by its number.
#[must_use]
pub fn address(first: u8, number: usize) -> String {
    format!("{first}.{}.{}.{}", number >> 16, (number >> 8) & 255, number & 255)
}

fn policy(number: usize) -> String {
    match number % 4 {
        0 => format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p{number}, namespace: prod}}\n\
             spec: {{selector: {{matchLabels: {{app: a{number}, tier: web}}}}, mtls: {{mode: STRICT}}, portLevelMtls: {{9090: {{mode: PERMISSIVE}}}}}}\n"
        ),
        1 => format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: p{number}, namespace: prod}}\n\
             spec: {{host: '{}s{number}.example', trafficPolicy: {{tls: {{mode: SIMPLE}}}}}}\n",
            if number % 8 == 1 { "*." } else { "" }
        ),
        _ => format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{number}, namespace: prod}}\n\
             spec: {{action: {}, rules: [{}]}}\n",
            if number % 16 == 2 { "DENY" } else { "ALLOW" },
            rule(number)
        ),
    }
}

/// Rules that differ in one field, whichever that is.
fn rule(number: usize) -> String {
    let source = |field: &str| format!("{{from: [{{source: {{{field}}}}}]}}");
    let operation = |fields: &str| format!("{{to: [{{operation: {{{fields}}}}}]}}");
    match number / 4 % 8 {
        0 => source(&format!("principals: [cluster.local/ns/prod/sa/a{number}]")),
        1 => source(&format!("namespaces: [n{number}]")),
        2 => source(&format!("ipBlocks: [12.{}.{}.0/24]", number / 256, number % 256)),
        3 => source(&format!("principals: ['cluster.local/ns/x{number}/*']")),
        4 => source(&format!("principals: ['*/sa/y{number}']")),
        5 => operation(&format!("methods: [GET], paths: [/api/v1/p{number}, '/api/v2/p{number}/*']")),
        6 => operation(&format!("hosts: [h{number}.example, '*.h{number}.example']")),
        _ => operation(&format!("methods: [POST], paths: ['/users/{{*}}/o{number}']")),
    }
}

fn service(text: &mut String, name: &str, resolution: &str, endpoints: &[String]) {
    write!(
        text,
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: prod}}\n\
         spec:\n  hosts: [{name}.example]\n  location: MESH_INTERNAL\n  resolution: {resolution}\n  \
         ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}]\n"
    )
    .unwrap();
    if !endpoints.is_empty() {
        text.push_str("  endpoints:\n");
    }
    for endpoint in endpoints {
        writeln!(
            text,
            "  - {{address: {endpoint}, serviceAccount: {name}, labels: {{app: {name}, security.istio.io/tlsMode: istio}}}}"
        )
        .unwrap();
    }
}

fn selecting_service(text: &mut String, number: usize) {
    write!(
        text,
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: w{number}, namespace: prod}}\n\
         spec:\n  hosts: [w{number}.example]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  \
         ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}]\n  \
         workloadSelector: {{labels: {{app: w{number}, tier: web}}}}\n"
    )
    .unwrap();
}

fn workload_entry(text: &mut String, number: usize) {
    let (address, app) = (address(10, number), number / 10);
    write!(
        text,
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: e{number}, namespace: prod}}\n\
         spec: {{address: {address}, serviceAccount: w{app}, labels: {{app: w{app}, tier: web, security.istio.io/tlsMode: istio}}}}\n"
    )
    .unwrap();
}

fn virtual_service(text: &mut String, name: &str, host: &str, matching: &str) {
    write!(
        text,
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: prod}}\n\
         spec: {{hosts: [{host}], gateways: [edge], http: [{{{matching}route: [{{destination: {{host: s0.example, port: {{number: 80}}}}}}]}}]}}\n"
    )
    .unwrap();
}
