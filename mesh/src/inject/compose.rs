//! Sidecars in a compose file: for each service a `-net` container that owns the network namespace, an `-init` that puts the
//! rules into it, a `-proxy`, and for all of them one CA.
//!
//! What speaks of the network (ports, aliases, DNS) moves from the service to its `-net`, since containers that share a
//! namespace share these. [`take_out`] moves it back.

use std::collections::{BTreeMap, BTreeSet};

use super::service::{Service, file, ports_called, registrations, services_file};
use super::{Beside, MARK, OPT_OUT, SIDECAR_UID, Wishes, opts_out, traffic};
use crate::spiffe::SpiffeId;
use crate::yaml::tree::Node;

/// The service and the host name of the CA.
const CA: &str = "pillion-ca";
/// What belongs to whoever owns the network namespace.
const OF_THE_NETWORK: [&str; 13] = [
    "networks",
    "ports",
    "expose",
    "hostname",
    "domainname",
    "dns",
    "dns_search",
    "dns_opt",
    "extra_hosts",
    "links",
    "external_links",
    "mac_address",
    "sysctls",
];
/// Label: the ports of a service, where compose does not tell them: `8080/http,9090`.
const PORTS: &str = "pillion.dev/ports";
/// Label: the service account; the service's name where it is missing.
const ACCOUNT: &str = "pillion.dev/service-account";

/// A service that gets a sidecar.
struct App {
    name: String,
    account: String,
    labels: Vec<(String, String)>,
    rules: Vec<String>,
    image: String,
    profiles: Option<Node>,
    /// Its networks, by which the CA is reached.
    networks: Vec<String>,
}

impl App {
    fn part(&self, part: &str) -> String {
        format!("{}-{part}", self.name)
    }

    /// The labels that selectors of policies may match on: those that are not some tool's.
    fn selected_by(&self) -> BTreeMap<String, String> {
        let own = self.labels.iter().filter(|(key, _)| !key.contains(['.', '/'])).cloned();
        BTreeMap::from_iter([("app".to_owned(), self.name.clone())].into_iter().chain(own))
    }

    fn id(&self, wishes: &Wishes) -> Result<SpiffeId, String> {
        SpiffeId::of_service_account(&wishes.trust_domain, &wishes.namespace, &self.account).map_err(
            |error| format!("service {}: {error}; name another account by the label {ACCOUNT}", self.name),
        )
    }
}

/// Changes the file, and says what stands beside it.
pub(super) fn inject(root: &mut Node, wishes: &Wishes) -> Result<Beside, String> {
    if root.get("include").is_some() {
        return Err(format!("has `include`, which only compose can read; {WHOLE}"));
    }
    take_out(root);
    if wishes.remove {
        return Ok(Beside::default());
    }
    let mut notes = Vec::new();
    let apps = apps(root, wishes, &mut notes)?;
    if apps.is_empty() {
        notes.push("no service gets a sidecar; nothing is changed".to_owned());
        return Ok(Beside { notes, ..Beside::default() });
    }
    let services = services(root, &apps, wishes, &mut notes)?;
    point_to_owners(root, &apps);
    for app in &apps {
        split(root, app, wishes);
    }
    add_ca(root, &apps, wishes);
    let mut files = vec![
        ("ca/ca.yaml".to_owned(), ca_settings(&apps, wishes)?),
        ("mesh/services.yaml".to_owned(), services_file(&services)),
    ];
    for app in &apps {
        files.push((format!("sidecars/{}.yaml", app.name), sidecar_settings(app, wishes)));
    }
    Ok(Beside { files, needs_files: true, notes })
}

/// How to get a file that is whole.
const WHOLE: &str = "give it whole: docker compose config | pillion inject -f -";

/// The services that get a sidecar; why others do not goes to the notes.
fn apps(root: &Node, wishes: &Wishes, notes: &mut Vec<String>) -> Result<Vec<App>, String> {
    let Some(services) = root.get("services") else { return Ok(Vec::new()) };
    let mut apps = Vec::new();
    for (name, service) in services.entries() {
        let labels = pairs(service.get("labels"));
        let label = |key: &str| labels.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        if opts_out(label(OPT_OUT)) {
            notes.push(format!("{name} gets no sidecar: its label {OPT_OUT} says so"));
            continue;
        }
        if let Some(mode) = service.get("network_mode").and_then(Node::as_text) {
            notes.push(whose_network(name, mode)?);
            continue;
        }
        refuse_what_cannot_be(name, service)?;
        for annotation in traffic::unread(&labels) {
            notes.push(format!("{name}: the label {annotation} changes nothing here"));
        }
        let app = App {
            name: name.to_owned(),
            account: label(ACCOUNT).unwrap_or(name).to_owned(),
            rules: traffic::arguments(&labels).map_err(|error| format!("service {name}: {error}"))?,
            image: label(traffic::PROXY_IMAGE).unwrap_or(&wishes.proxy_image).to_owned(),
            profiles: service.get("profiles").cloned(),
            networks: names(service.get("networks"), "default"),
            labels,
        };
        let parts = ["net", "init", "proxy"].map(|part| app.part(part));
        if let Some(taken) = parts.iter().find(|part| services.get(part).is_some()) {
            return Err(format!(
                "service {taken} has the name that a part of the sidecar of {name} would have; rename it"
            ));
        }
        apps.push(app);
    }
    if !apps.is_empty() && services.get(CA).is_some() {
        return Err(format!("service {CA} has the name that the CA would have; rename it"));
    }
    Ok(apps)
}

/// Why a service without a network of its own gets no sidecar.
fn whose_network(name: &str, mode: &str) -> Result<String, String> {
    match mode.split_once(':') {
        Some(("service", owner)) => {
            Ok(format!("{name} shares the network of {owner}, and so its sidecar, if it has one"))
        }
        None if mode == "none" => Ok(format!("{name} gets no sidecar: it has no network")),
        _ => Err(format!(
            "service {name} has `network_mode: {mode}`, where rules would capture what is not its own; leave that out, or say by \
             the label {OPT_OUT}: \"false\" that it gets no sidecar"
        )),
    }
}

fn refuse_what_cannot_be(name: &str, service: &Node) -> Result<(), String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(is_name) {
        return Err(format!("service {name:?}: expected a name of letters, digits, `-`, `_` and `.`"));
    }
    if service.get("extends").is_some() {
        return Err(format!("service {name} has `extends`, which only compose can read; {WHOLE}"));
    }
    let user = service.get("user").and_then(Node::as_text).unwrap_or_default();
    if user.split(':').any(|id| id.parse() == Ok(SIDECAR_UID)) {
        return Err(format!(
            "service {name} runs as user {user}: what user or group {SIDECAR_UID} sends is taken for the sidecar's and not \
             captured; give it another"
        ));
    }
    let replicas = service.at(&["deploy", "replicas"]).or(service.get("scale")).and_then(Node::as_text);
    if let Some(replicas) = replicas.filter(|replicas| !matches!(*replicas, "0" | "1")) {
        return Err(format!(
            "service {name} has {replicas} replicas, which would share one network namespace and its ports; make them services \
             of their own"
        ));
    }
    Ok(())
}

/// What the mesh folder is told: of services with sidecars, and of others that are called.
fn services(
    root: &Node,
    apps: &[App],
    wishes: &Wishes,
    notes: &mut Vec<String>,
) -> Result<Vec<Service>, String> {
    let texts = texts_of_services(root);
    let mut told = Vec::new();
    for (name, service) in root.get("services").into_iter().flat_map(Node::entries) {
        let labels = pairs(service.get("labels"));
        let mut ports = declared_ports(service);
        if let Some((_, list)) = labels.iter().find(|(key, _)| key == PORTS) {
            ports.extend(ports_of_label(list).map_err(|seen| {
                format!("service {name}: {PORTS}: expected ports, such as 8080/http,9090, seen `{seen}`")
            })?);
        }
        for port in ports_called(name, texts.iter().map(String::as_str)) {
            ports.entry(port).or_insert(false);
        }
        let app = apps.iter().find(|app| app.name == name);
        if app.is_some() && ports.is_empty() {
            notes.push(format!(
                "{name} declares no port: whoever calls it does so in plaintext; write `expose: [PORT]`, or nothing where it is not \
                 called"
            ));
        }
        told.push(Service {
            name: name.to_ascii_lowercase().replace('_', "-"),
            namespace: wishes.namespace.clone(),
            hosts: hosts(name, service),
            ports,
            workload: app.map(|app| (app.account.clone(), app.selected_by())),
        });
    }
    Ok(told)
}

/// Whatever a service may hold an address of another in.
fn texts_of_services(root: &Node) -> Vec<String> {
    let mut texts = Vec::new();
    for (_, service) in root.get("services").into_iter().flat_map(Node::entries) {
        for key in ["command", "entrypoint", "environment"] {
            let Some(node) = service.get(key) else { continue };
            let values = node.items().iter().chain(node.entries().map(|(_, value)| value));
            texts.extend(std::iter::once(node).chain(values).filter_map(Node::as_text).map(str::to_owned));
        }
    }
    texts
}

/// Container ports of `expose` and `ports`; UDP is not the mesh's, and a range is as many ports.
fn declared_ports(service: &Node) -> BTreeMap<u16, bool> {
    let mut ports = BTreeMap::new();
    let listed = ["expose", "ports"].into_iter().filter_map(|key| service.get(key)).flat_map(Node::items);
    for port in listed {
        let is_http =
            port.get("app_protocol").and_then(Node::as_text).is_some_and(|name| name.starts_with("http"));
        let is_udp = port.get("protocol").and_then(Node::as_text) == Some("udp");
        let written =
            port.as_text().or_else(|| port.get("target").and_then(Node::as_text)).unwrap_or_default();
        let (written, protocol) = written.split_once('/').unwrap_or((written, "tcp"));
        if is_udp || protocol != "tcp" {
            continue;
        }
        let inside = written.rsplit(':').next().unwrap_or_default();
        let (first, last) = inside.split_once('-').unwrap_or((inside, inside));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            ports.extend((first.max(1)..=last).map(|port| (port, is_http)));
        }
    }
    ports
}

fn ports_of_label(list: &str) -> Result<BTreeMap<u16, bool>, &str> {
    let parts = list.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (port, protocol) = part.split_once('/').unwrap_or((part, "tcp"));
            let is_http = protocol.eq_ignore_ascii_case("http");
            let is_known = is_http || protocol.eq_ignore_ascii_case("tcp");
            port.parse().ok().filter(|port| *port != 0 && is_known).map(|port| (port, is_http)).ok_or(part)
        })
        .collect()
}

/// The names by which compose lets others find a service.
fn hosts(name: &str, service: &Node) -> Vec<String> {
    let networks = service.get("networks").into_iter().flat_map(Node::entries);
    let aliases =
        networks.flat_map(|(_, network)| network.get("aliases").map(Node::items).unwrap_or_default());
    let mut hosts = own_names(name, service);
    for alias in aliases.filter_map(Node::as_text).filter(|alias| !alias.contains("${")) {
        if !hosts.iter().any(|there| there == alias) {
            hosts.push(alias.to_owned());
        }
    }
    hosts
}

/// Others that speak of an app's network speak of its `-net` now.
fn point_to_owners(root: &mut Node, apps: &[App]) {
    let owner = |name: &str| apps.iter().find(|app| app.name == name).map(|app| app.part("net"));
    for name in names_of_services(root) {
        let Some(service) = root.get_mut("services").and_then(|services| services.get_mut(&name)) else {
            continue;
        };
        let shared = service
            .get("network_mode")
            .and_then(Node::as_text)
            .and_then(|mode| mode.strip_prefix("service:"));
        if let Some(net) = shared.and_then(owner) {
            service.set("network_mode", Node::text(format!("service:{net}")));
        }
        for link in service.get_mut("links").and_then(Node::items_mut).into_iter().flatten() {
            let written = link.as_text().unwrap_or_default();
            let (target, alias) = written.split_once(':').unwrap_or((written, written));
            if let Some(net) = owner(target) {
                *link = Node::text(format!("{net}:{alias}"));
            }
        }
    }
}

/// One service becomes four.
fn split(root: &mut Node, app: &App, wishes: &Wishes) {
    let Some(services) = root.get_mut("services") else { return };
    let Some(service) = services.get_mut(&app.name) else { return };
    let mut net = net(app);
    let names = own_names(&app.name, service);
    for key in OF_THE_NETWORK {
        if let Some(value) = service.remove(key) {
            net.set(key, value);
        }
    }
    give_names(&mut net, &names);
    set_label(service, "app");
    service.set("network_mode", Node::text(format!("service:{}", app.part("net"))));
    depend_on(service, &app.part("proxy"));
    let parts = [("net", net), ("init", init(app, wishes)), ("proxy", proxy(app, wishes))];
    services.insert_behind(&app.name, parts.map(|(part, node)| (app.part(part), node)));
}

/// Owns the network namespace, so that app and sidecar may be restarted on their own.
fn net(app: &App) -> Node {
    part(
        app,
        "net",
        &app.image,
        [
            ("entrypoint", Node::texts(["sleep", "infinity"])),
            ("stop_signal", Node::text("SIGKILL")),
            ("restart", Node::text("unless-stopped")),
            ("cap_drop", Node::texts(["ALL"])),
            ("read_only", Node::word(true)),
        ],
    )
}

fn init(app: &App, wishes: &Wishes) -> Node {
    part(
        app,
        "init",
        &wishes.init_image,
        [
            ("command", Node::texts(&app.rules)),
            ("network_mode", Node::text(format!("service:{}", app.part("net")))),
            ("cap_drop", Node::texts(["ALL"])),
            ("cap_add", Node::texts(["NET_ADMIN", "NET_RAW"])),
        ],
    )
}

fn proxy(app: &App, wishes: &Wishes) -> Node {
    let folder = &wishes.folder;
    let settings = format!("/etc/pillion/sidecars/{}.yaml", app.name);
    let volumes = [
        format!("{folder}/sidecars:/etc/pillion/sidecars:ro"),
        format!("{folder}/mesh:/etc/pillion/mesh:ro"),
        format!("{BUNDLE}:/run/pillion/bundle:ro"),
        format!("{}:/run/pillion/token:ro", token_volume(&app.account)),
    ];
    part(
        app,
        "proxy",
        &app.image,
        [
            ("command", Node::texts(["--config", &settings])),
            ("network_mode", Node::text(format!("service:{}", app.part("net")))),
            ("volumes", Node::list(volumes.map(Node::text))),
            ("cap_drop", Node::texts(["ALL"])),
            ("security_opt", Node::texts(["no-new-privileges:true"])),
            ("read_only", Node::word(true)),
            ("restart", Node::text("on-failure")),
            ("healthcheck", healthcheck(15021)),
            (
                "depends_on",
                Node::map([
                    (CA, condition("service_healthy")),
                    (&app.part("init"), condition("service_completed_successfully")),
                ]),
            ),
        ],
    )
}

fn part<'k>(app: &App, what: &str, image: &str, rest: impl IntoIterator<Item = (&'k str, Node)>) -> Node {
    let begin = [("image", Node::text(image)), ("labels", label(what))];
    let profiles = app.profiles.clone().map(|profiles| ("profiles", profiles));
    Node::map(begin.into_iter().chain(profiles).chain(rest))
}

const BUNDLE: &str = "pillion-bundle";
const STATE: &str = "pillion-ca-state";

/// The volume of an account's token.
fn token_volume(account: &str) -> String {
    format!("pillion-token-{account}")
}

/// The accounts, each once though several services may share it.
fn accounts(apps: &[App]) -> BTreeSet<&str> {
    apps.iter().map(|app| app.account.as_str()).collect()
}

/// The CA, on every network that a sidecar is on, and the volumes.
fn add_ca(root: &mut Node, apps: &[App], wishes: &Wishes) {
    let tokens =
        accounts(apps).into_iter().map(|name| format!("{}:/run/pillion/tokens/{name}", token_volume(name)));
    let volumes = [
        format!("{}/ca:/etc/pillion/ca:ro", wishes.folder),
        format!("{STATE}:/var/lib/pillion-ca"),
        format!("{BUNDLE}:/run/pillion/bundle"),
    ];
    let mut ca = Node::map([
        ("image", Node::text(&wishes.ca_image)),
        ("labels", label("ca")),
        ("command", Node::texts(["serve", "--config", "/etc/pillion/ca/ca.yaml"])),
        ("volumes", Node::list(volumes.into_iter().chain(tokens).map(Node::text))),
        ("cap_drop", Node::texts(["ALL"])),
        ("security_opt", Node::texts(["no-new-privileges:true"])),
        ("read_only", Node::word(true)),
        ("restart", Node::text("on-failure")),
        ("healthcheck", healthcheck(15014)),
    ]);
    let networks: BTreeSet<&str> = apps.iter().flat_map(|app| &app.networks).map(String::as_str).collect();
    if networks.iter().any(|network| *network != "default") {
        ca.set("networks", Node::texts(networks));
    }
    if let Some(services) = root.get_mut("services") {
        services.set(CA, ca.under_comment("Gives each sidecar its certificate."));
    }
    let Some(volumes) = root.entry("volumes", Node::map([])) else { return };
    volumes.set(STATE, Node::map([("labels", label("volume"))]));
    let in_memory = || {
        let options = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "uid=1337,gid=1337,mode=0700")];
        let options = options.map(|(key, value)| (key, Node::text(value)));
        Node::map([("labels", label("volume")), ("driver_opts", Node::map(options).on_one_line())])
    };
    volumes.set(BUNDLE, in_memory());
    for account in accounts(apps) {
        volumes.set(&token_volume(account), in_memory());
    }
}

fn ca_settings(apps: &[App], wishes: &Wishes) -> Result<String, String> {
    let mut identities = BTreeMap::new();
    for app in apps {
        let token = format!("/run/pillion/tokens/{}/token", app.account);
        identities.insert(app.id(wishes)?.to_string(), Some(token));
    }
    let root = Node::map([
        ("trustDomain", Node::text(wishes.trust_domain.as_str())),
        ("listen", Node::text("0.0.0.0:15012")),
        ("dnsNames", Node::texts([CA, "localhost"])),
        ("state", Node::text("/var/lib/pillion-ca")),
        ("monitoring", Node::text("0.0.0.0:15014")),
        ("bundleFile", Node::text("/run/pillion/bundle/bundle.pem")),
        ("registrations", registrations(identities)),
    ]);
    Ok(file("Who may have which identity, and where its token is put.", root))
}

fn sidecar_settings(app: &App, wishes: &Wishes) -> String {
    let labels = app.selected_by();
    let labels = labels.iter().map(|(key, value)| (key.as_str(), Node::text(value)));
    let workload = Node::map([
        ("trustDomain", Node::text(wishes.trust_domain.as_str())),
        ("namespace", Node::text(&wishes.namespace)),
        ("serviceAccount", Node::text(&app.account)),
        ("labels", Node::map(labels).on_one_line()),
    ]);
    let ca = Node::map([
        ("address", Node::text(format!("https://{CA}:15012"))),
        ("tokenFile", Node::text("/run/pillion/token/token")),
        ("bundleFile", Node::text("/run/pillion/bundle/bundle.pem")),
    ]);
    let root = Node::map([
        ("workload", workload),
        ("identity", Node::map([("ca", ca)])),
        ("mesh", Node::text("/etc/pillion/mesh")),
        ("inbound", Node::map([("capture", Node::text("0.0.0.0:15006"))])),
        ("outbound", Node::map([("capture", Node::text("127.0.0.1:15001"))])),
    ]);
    file(&format!("The sidecar of {}.", app.name), root)
}

fn healthcheck(port: u16) -> Node {
    let url = format!("http://127.0.0.1:{port}/healthz/ready");
    Node::map([
        ("test", Node::texts(["CMD", "pillion", "probe", &url])),
        ("interval", Node::text("2s")),
        ("timeout", Node::text("5s")),
        ("retries", Node::word(30)),
    ])
}

fn condition(condition: &str) -> Node {
    Node::map([("condition", Node::text(condition))]).on_one_line()
}

fn label(what: &str) -> Node {
    Node::map([(MARK, Node::text(what))]).on_one_line()
}

/// Gives a `-net` the service's own names on each of its networks.
fn give_names(net: &mut Node, names: &[String]) {
    let listed = net.get("networks").cloned().unwrap_or_default();
    let mut networks = Node::map([]);
    for network in self::names(Some(&listed), "default") {
        let mut there = listed
            .get(&network)
            .filter(|there| !there.is_null() && !there.is_empty())
            .cloned()
            .unwrap_or_default();
        if let Some(aliases) = there.entry("aliases", Node::texts::<&str>([])).and_then(Node::items_mut) {
            let is_there = |name: &&String| aliases.iter().any(|alias| alias.as_text() == Some(name));
            let missing: Vec<Node> = names.iter().filter(|name| !is_there(name)).map(Node::text).collect();
            aliases.extend(missing);
        }
        networks.set(&network, there);
    }
    net.set("networks", networks);
}

/// The service's name, and that of its container.
fn own_names(name: &str, service: &Node) -> Vec<String> {
    let container = service.get("container_name").and_then(Node::as_text).filter(|host| *host != name);
    std::iter::once(name).chain(container).map(str::to_owned).collect()
}

fn depend_on(service: &mut Node, name: &str) {
    let before = service.get("depends_on").cloned().unwrap_or_default();
    if !before.is_map() {
        let started =
            before.items().iter().filter_map(Node::as_text).map(|name| (name, condition("service_started")));
        service.set("depends_on", Node::map(started));
    }
    if let Some(depends_on) = service.get_mut("depends_on") {
        depends_on.set(name, condition("service_healthy"));
    }
}

fn set_label(service: &mut Node, what: &str) {
    if let Some(labels) = service.entry("labels", Node::map([])) {
        match labels.items_mut() {
            Some(items) => items.push(Node::text(format!("{MARK}={what}"))),
            None => labels.set(MARK, Node::text(what)),
        }
    }
}

/// What was injected before.
fn mark(node: &Node) -> Option<String> {
    pairs(node.get("labels")).into_iter().find(|(key, _)| key == MARK).map(|(_, value)| value)
}

/// Takes out what was injected: services and volumes with our label, and of the apps what was changed.
fn take_out(root: &mut Node) {
    let marked = |name: &String| root.at(&["services", name]).and_then(mark).as_deref() == Some("app");
    let apps: Vec<String> = names_of_services(root).into_iter().filter(marked).collect();
    for name in &apps {
        restore(root, name);
    }
    for name in names_of_services(root) {
        if let Some(service) = root.get_mut("services").and_then(|services| services.get_mut(&name)) {
            point_back(service, &apps);
        }
    }
    if let Some(services) = root.get_mut("services") {
        services.retain(|_, service| mark(service).is_none());
    }
    let Some(volumes) = root.get_mut("volumes") else { return };
    let before = volumes.entries().count();
    volumes.retain(|_, volume| mark(volume).is_none());
    if before > 0 && volumes.is_empty() {
        root.remove("volumes");
    }
}

/// Gives an app back what its `-net` had.
fn restore(root: &mut Node, name: &str) {
    let Some(services) = root.get_mut("services") else { return };
    let net = services.get(&format!("{name}-net")).cloned().unwrap_or_default();
    let Some(app) = services.get_mut(name) else { return };
    app.remove("network_mode");
    app.prune("depends_on", |depends_on| {
        depends_on.remove(&format!("{name}-proxy"));
    });
    app.prune("labels", |labels| match labels.items_mut() {
        Some(items) => items.retain(|item| !item.as_text().unwrap_or_default().starts_with(MARK)),
        None => labels.retain(|key, _| key != MARK),
    });
    for key in OF_THE_NETWORK {
        if let Some(value) = net.get(key) {
            app.set(key, value.clone());
        }
    }
    let names = own_names(name, app);
    let networks = self::names(app.get("networks"), "default");
    app.prune("networks", |there| {
        for network in &networks {
            let Some(network) = there.get_mut(network) else { continue };
            network.prune("aliases", |aliases| {
                let own = |alias: &Node| names.iter().any(|name| alias.as_text() == Some(name));
                if let Some(items) = aliases.items_mut() {
                    items.retain(|alias| !own(alias));
                }
            });
        }
        if networks == ["default"] && there.get("default").is_some_and(Node::is_empty) {
            there.remove("default");
        }
    });
}

/// The way back of [`point_to_owners`].
fn point_back(service: &mut Node, apps: &[String]) {
    let app = |net: &str| apps.iter().find(|name| net.strip_suffix("-net") == Some(name));
    let shared =
        service.get("network_mode").and_then(Node::as_text).and_then(|mode| mode.strip_prefix("service:"));
    if let Some(name) = shared.and_then(app) {
        service.set("network_mode", Node::text(format!("service:{name}")));
    }
    for link in service.get_mut("links").and_then(Node::items_mut).into_iter().flatten() {
        let written = link.as_text().unwrap_or_default();
        let (net, alias) = written.split_once(':').unwrap_or((written, written));
        if let Some(name) = app(net) {
            *link = Node::text(if alias == name { name.clone() } else { format!("{name}:{alias}") });
        }
    }
}

fn names_of_services(root: &Node) -> Vec<String> {
    root.get("services").into_iter().flat_map(Node::entries).map(|(name, _)| name.to_owned()).collect()
}

/// The names that a list or mapping gives, or the one that stands for none.
fn names(node: Option<&Node>, otherwise: &str) -> Vec<String> {
    let listed = node.into_iter().flat_map(Node::items).filter_map(Node::as_text);
    let keys = node.into_iter().flat_map(Node::entries).map(|(key, _)| key);
    let names: Vec<String> = listed.chain(keys).map(str::to_owned).collect();
    if names.is_empty() { vec![otherwise.to_owned()] } else { names }
}

/// Labels, which compose takes as a mapping or as a list of `key=value`.
fn pairs(labels: Option<&Node>) -> Vec<(String, String)> {
    let listed = labels.into_iter().flat_map(Node::items).filter_map(Node::as_text);
    let listed = listed.map(|item| item.split_once('=').unwrap_or((item, "")));
    let mapped = labels.into_iter().flat_map(Node::entries);
    let mapped = mapped.map(|(key, value)| (key, value.as_text().unwrap_or_default()));
    listed.chain(mapped).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
