//! Files of `mesh/tests/inject` before and after. `UPDATE_GOLDEN=1` writes what came of each anew.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::resource::Resources;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inject")
}

fn before(name: &str) -> String {
    fs::read_to_string(folder().join(format!("{name}.yaml"))).unwrap()
}

fn wishes() -> Wishes {
    Wishes {
        proxy_image: "pillion-proxy".to_owned(),
        init_image: "pillion-init".to_owned(),
        ca_image: "pillion-ca".to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: "default".to_owned(),
        folder: "./pillion".to_owned(),
        ca_address: "https://pillion-ca.pillion-system.svc:15012".to_owned(),
        native: true,
        remove: false,
    }
}

/// `--plain-sidecar` for the names that say so.
fn wishes_for(name: &str) -> Wishes {
    Wishes { native: !name.ends_with("-plain"), ..wishes() }
}

fn injected(name: &str, text: &str) -> Injected {
    inject(&format!("{name}.yaml"), text, &wishes_for(name)).unwrap()
}

/// The result, then the notes and the files.
fn shown(injected: &Injected) -> String {
    let mut shown = injected.text.clone();
    for note in &injected.notes {
        shown += &format!("# note: {note}\n");
    }
    for (name, text) in &injected.files {
        shown += &format!("# ==== {name}\n{text}");
    }
    shown
}

#[rstest]
#[case("shop", "shop")]
#[case("labels", "labels")]
#[case("deployment", "deployment")]
#[case("list", "list")]
#[case("deployment", "deployment-plain")]
#[case("list", "list-plain")]
fn each_workload_gets_its_sidecar(#[case] file: &str, #[case] name: &str) {
    let seen = shown(&injected(name, &before(file)));
    let path = folder().join(format!("{name}.after.yaml"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &seen).unwrap();
    }
    snapbox::assert_data_eq!(seen, snapbox::Data::read_from(&path, None).raw());
}

#[rstest]
fn injecting_twice_is_injecting_once_and_removing_is_the_way_back(
    #[values("shop", "labels", "deployment", "list")] name: &str,
    #[values(true, false)] native: bool,
) {
    let wishes = Wishes { native, ..wishes() };
    let once = inject("a.yaml", &before(name), &wishes).unwrap();
    let twice = inject("a.yaml", &once.text, &wishes).unwrap();
    assert_eq!(shown(&once), shown(&twice));

    let taken_out = inject("a.yaml", &once.text, &Wishes { remove: true, ..wishes.clone() }).unwrap();
    assert!(!taken_out.text.contains("pillion-") && !taken_out.text.contains(MARK), "{}", taken_out.text);
    assert!(taken_out.files.is_empty());
    assert_eq!(shown(&inject("a.yaml", &taken_out.text, &wishes).unwrap()), shown(&once));
}

/// Of the same values, whatever their layout.
#[test]
fn the_form_of_the_sidecar_can_be_changed() {
    let value =
        |injected: &Injected| crate::yaml::read::<serde_json::Value>("a.yaml", &injected.text).unwrap();
    let plain = injected("list-plain", &before("list"));
    let changed = injected("list", &plain.text);
    assert_eq!(value(&changed), value(&injected("list", &before("list"))));
    assert_ne!(value(&changed), value(&plain));
}

#[rstest]
fn the_mesh_folder_can_be_read(#[values("shop", "labels", "deployment", "list")] name: &str) {
    let files = injected(name, &before(name)).files;
    let (name, text) = files.iter().find(|(name, _)| name == "mesh/services.yaml").unwrap();
    Resources::default().read(name, text).unwrap();
}

#[rstest]
#[case::empty("", "expected a compose file or Kubernetes manifests, seen an empty file")]
#[case::neither("a: 1\n", "seen neither")]
#[case::both("services: {}\n---\napiVersion: v1\nkind: Pod\n", "seen neither")]
#[case::no_yaml("services: {\n", "not YAML")]
#[case::twice("services: {}\nservices: {}\n", "`services` stands twice")]
#[case::tag("services: {a: {ports: !reset []}}\n", "a tag such as `!reset`")]
#[case::path("services: {../a: {}}\n", "expected a name of letters")]
#[case::host("services: {a: {network_mode: host}}\n", "sidecar.istio.io/inject: \"false\"")]
#[case::user("services: {a: {user: \"0:1337\"}}\n", "not captured; give it another")]
#[case::replicas("services: {a: {deploy: {replicas: 3}}}\n", "has 3 replicas")]
#[case::extends("services: {a: {extends: b}}\n", "docker compose config | pillion inject -f -")]
#[case::include("include: [b.yaml]\nservices: {a: {}}\n", "docker compose config | pillion inject -f -")]
#[case::taken("services: {a: {}, a-proxy: {}}\n", "service a-proxy has the name")]
#[case::ca("services: {a: {}, pillion-ca: {}}\n", "service pillion-ca has the name")]
#[case::ports("services: {a: {labels: {pillion.dev/ports: web}}}\n", "seen `web`")]
#[case::annotation(
    "services: {a: {labels: {traffic.sidecar.istio.io/excludeInboundPorts: http}}}\n",
    "expected ports, such as 8080,9090, or `*`, seen `http`"
)]
#[case::range(
    "services: {a: {labels: {traffic.sidecar.istio.io/excludeOutboundIPRanges: 10.0.0.0/80}}}\n",
    "expected ranges of addresses"
)]
#[case::tproxy(
    "services: {a: {labels: {sidecar.istio.io/interceptionMode: TPROXY}}}\n",
    "expected REDIRECT, seen `TPROXY`"
)]
#[case::account(
    "services: {a: {labels: {pillion.dev/service-account: a/b}}}\n",
    "pillion.dev/service-account"
)]
#[case::no_pod(
    "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: a}\nspec: {}\n",
    "expected spec.jobTemplate"
)]
#[case::pod_user(
    "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, securityContext: {runAsUser: 1337}}]}\n",
    "runs as user 1337"
)]
fn what_cannot_have_a_sidecar_is_refused_with_the_cure(#[case] text: &str, #[case] expected: &str) {
    let error = inject("a.yaml", text, &wishes()).unwrap_err().to_string();
    assert!(error.starts_with("a.yaml:") && error.contains(expected), "{error}");
}

#[test]
fn a_service_that_joins_later_gets_its_sidecar_too() {
    let mut text = injected("shop", &before("shop")).text;
    text = text.replace("\nvolumes:\n", "\n  mail: {image: shop/mail, expose: [25]}\nvolumes:\n");
    let later = injected("shop", &text);
    assert!(later.text.contains("mail-proxy"));
    assert_eq!(later.files.len(), 6);
}

#[test]
fn services_that_share_an_account_share_its_token() {
    let service = "{image: a, expose: [80], labels: {pillion.dev/service-account: both}}";
    let injected = injected("a", &format!("services:\n  a: {service}\n  b: {service}\n"));
    assert_eq!(injected.text.matches("pillion-token-both:/run/pillion/token:ro").count(), 2);
    let (_, ca) = injected.files.iter().find(|(name, _)| name == "ca/ca.yaml").unwrap();
    assert_eq!(ca.matches("sa/both").count(), 1, "the CA takes no identity twice");
}

#[test]
fn manifests_of_other_kinds_stay_as_they_are() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  mode: 0644\n  text: |\n    one\n      two\n";
    assert_eq!(injected("a", text).text, text);
}

#[rstest]
#[case("http://cart:9000/api", &[9000])]
#[case("cart:9000,cart:9001", &[9000, 9001])]
#[case("http://cart/api", &[80])]
#[case("https://cart", &[443])]
#[case("postgres://cart@db", &[])]
#[case("my-cart:1 cart2:2 cart.shop:3 a.cart:4", &[])]
#[case("cart:99999 cart:0 cart:", &[])]
fn a_port_is_known_by_who_calls_it(#[case] text: &str, #[case] expected: &[u16]) {
    assert_eq!(service::ports_called("cart", [text]), expected);
}

#[rstest]
#[case("expose: [80, '443']", "80 TCP, 443 TCP")]
#[case("ports: [8080]", "8080 TCP")]
#[case(
    "ports: ['80:8080/tcp', '53:53/udp', '127.0.0.1:9000-9001:7000-7001', '${PORT:-1}:5000']",
    "5000 TCP, 7000 TCP, 7001 TCP, 8080 TCP"
)]
#[case("ports: [{target: 80, app_protocol: http}, {target: 53, protocol: udp}]", "80 HTTP")]
#[case("ports: ['${PORT}']", "")]
#[case("labels: {pillion.dev/ports: '80/HTTP, 81/tcp,82'}", "80 HTTP, 81 TCP, 82 TCP")]
#[case("expose: [80]\n    labels: ['pillion.dev/ports=80/http']", "80 HTTP")]
fn ports_are_those_that_the_file_tells(#[case] service: &str, #[case] expected: &str) {
    let injected = injected("a", &format!("services:\n  a:\n    {service}\n"));
    let (_, services) = injected.files.iter().find(|(name, _)| name == "mesh/services.yaml").unwrap();
    let ports: Vec<String> = services
        .lines()
        .filter_map(|line| line.strip_prefix("  - {number: ")?.strip_suffix('}'))
        .map(|line| format!("{} {}", line.split(',').next().unwrap(), line.rsplit(' ').next().unwrap()))
        .collect();
    assert_eq!(ports.join(", "), expected);
    assert_eq!(injected.notes.iter().any(|note| note.contains("declares no port")), expected.is_empty());
}

proptest! {
    /// Whatever a compose file says of its services: twice is once, and removing is the way back.
    #[test]
    fn any_compose_file_is_injected_the_same_again(services in proptest::collection::vec(service(), 1..4)) {
        let names = ["web", "cart", "db"];
        let mut text = "services:\n".to_owned();
        for (name, lines) in names.iter().zip(&services) {
            text += &format!("  {name}:\n    image: shop\n{lines}");
        }
        let Ok(once) = inject("a.yaml", &text, &wishes()) else { return Ok(()) };
        let twice = inject("a.yaml", &once.text, &wishes()).unwrap();
        prop_assert_eq!(shown(&twice), shown(&once), "{}", text);
        let remove = Wishes { remove: true, ..wishes() };
        let removed = inject("a.yaml", &once.text, &remove).unwrap().text;
        prop_assert!(!removed.contains("pillion-"), "{}", removed);
        prop_assert_eq!(shown(&inject("a.yaml", &removed, &wishes()).unwrap()), shown(&once), "{}", text);
        let mesh = once.files.iter().find(|(name, _)| name == "mesh/services.yaml");
        if let Some((name, text)) = mesh {
            Resources::default().read(name, text).unwrap();
        }
    }
}

/// Any of these lines, each at most once.
fn service() -> impl Strategy<Value = String> {
    let lines = [
        "ports: ['8080:80', 53:53/udp]",
        "expose: [9000, \"9001\"]",
        "networks: [front, back]",
        "depends_on: [db]",
        "depends_on: {web: {condition: service_healthy}}",
        "labels: {version: v1}",
        "labels: [version=v1, pillion.dev/service-account=shared]",
        "labels: {sidecar.istio.io/inject: 'false'}",
        "network_mode: service:web",
        "network_mode: none",
        "links: ['web:www', cart]",
        "hostname: host",
        "container_name: one",
        "environment: ['A=http://web/', B=cart:70]",
        "profiles: [all]",
        "volumes: ['/a:/b']  # beside",
    ];
    proptest::sample::subsequence(lines.to_vec(), 0..6).prop_map(|lines| {
        let mut seen = Vec::new();
        let lines = lines.into_iter().filter(|line| {
            let key = line.split(':').next().unwrap();
            let is_taken = seen.contains(&key) || key == "network_mode" && seen.contains(&"networks");
            seen.push(key);
            !is_taken
        });
        lines.map(|line| format!("    # of {}\n    {line}\n", line.len())).collect()
    })
}
