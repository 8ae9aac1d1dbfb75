//! The topology: for each contestant a client and a server host of its own, network namespaces joined by one switch, with real
//! interception rules, an app at the server and the contestant's proxies as the user whom the rules exempt.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cpu;
use super::identity::{Authority, Key, combined, write};
use super::load::job::Files;
use super::peer::{Found, Kind, Role, Values};
use crate::lab::{Lab, LabError, Node, PROXY_USER, Process, Way, run, wait_until};

/// How long a contestant may take until a byte comes back through it.
const START: Duration = Duration::from_secs(30);

/// Where the app listens and is called.
pub(crate) const PORT: u16 = 8080;

/// The network of the second address that each host has. What root dials at the client comes from there: the first address has
/// some 64,000 ports towards the app, too few for many connections and for those that its sidecar dials for them.
const SECOND: u8 = 1;

/// The routing table that says so.
const TABLE: &str = "100";

/// What is said in a namespace that thousands of short connections a second pass through, for all contestants alike: ports
/// of closed connections come back soon, and so do their entries in the table of connections. Those of connections that one
/// side alone has closed stay: with them the other side's end would be lost.
const SETTINGS: [(&str, &str); 5] = [
    ("ipv4/ip_local_port_range", "1024 65535"),
    ("ipv4/tcp_tw_reuse", "1"),
    ("core/somaxconn", "4096"),
    ("netfilter/nf_conntrack_tcp_timeout_time_wait", "1"),
    ("netfilter/nf_conntrack_tcp_timeout_close", "1"),
];

/// All contestants that could be started, and why the others could not.
pub(crate) struct Rig {
    pub(crate) seats: Vec<Seat>,
    /// Name, title and reason of those that are not here.
    pub(crate) absent: Vec<(String, String, String)>,
    /// The load generator's own files, as the client.
    pub(crate) client_files: Files,
    // Last, so that all processes are gone before their namespaces.
    _lab: Lab,
}

/// One contestant, running.
pub(crate) struct Seat {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) kind: Kind,
    pub(crate) version: String,
    pub(crate) cannot: Vec<String>,
    pub(crate) most: Option<usize>,
    /// Empty: all.
    questions: Vec<String>,
    pub(crate) client: Node,
    /// Where the client calls.
    pub(crate) target: SocketAddr,
    /// By which its load generators are told to begin.
    pub(crate) flag: PathBuf,
    app: Process,
    inbound: Option<Process>,
    outbound: Option<Process>,
    /// Memory of inbound and outbound after the first connection, in bytes.
    pub(crate) start_memory: Memory,
}

/// Resident memory, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) inbound: Option<u64>,
    pub(crate) outbound: Option<u64>,
}

impl Memory {
    pub(crate) const NOTHING: Self = Self { inbound: Some(0), outbound: Some(0) };

    /// How much more it is than `base`, outbound first, in some unit.
    pub(crate) fn above(self, base: Self, unit: impl Fn(u64) -> f64) -> [Option<f64>; 2] {
        let more = |now: Option<u64>, then: Option<u64>| Some(unit(now?.saturating_sub(then?)));
        [more(self.outbound, base.outbound), more(self.inbound, base.inbound)]
    }

    /// Whether one of both is further away than `ripple` bytes.
    pub(crate) fn differs(self, other: Self, ripple: u64) -> bool {
        let far = |one: Option<u64>, other: Option<u64>| {
            one.unwrap_or_default().abs_diff(other.unwrap_or_default()) > ripple
        };
        far(self.inbound, other.inbound) || far(self.outbound, other.outbound)
    }
}

impl Rig {
    /// Starts everything; `tell` is told who starts. `direct` adds the contestant without proxies.
    pub(crate) fn build(
        executable: &Path,
        peers: &[Found],
        key: Key,
        direct: bool,
        tell: &dyn Fn(&str),
    ) -> Result<Self, LabError> {
        let lab = Lab::new(Way::Root, executable)?;
        let authority = Authority::new(1)?;
        let folder = lab.folder().join("bench");
        make_folder(&folder)?;
        let issue = |account: &str| authority.issue(account, key)?.write(&folder, account, Some(PROXY_USER));
        let (client_files, server_files) = (issue("client")?, issue("server")?);
        let mut rig = Self { seats: Vec::new(), absent: Vec::new(), client_files, _lab: lab };
        if direct {
            tell("no proxy");
            rig.seats.push(Seat::direct(&rig._lab)?);
        }
        for found in peers {
            tell(&found.peer.title);
            let files = (&rig.client_files, &server_files);
            match Seat::start(&rig._lab, &folder, found, files) {
                Ok(seat) => rig.seats.push(seat),
                Err(LabError::Interrupted) => return Err(LabError::Interrupted),
                Err(error) => {
                    let why = format!("it did not start: {}", last_line(&error));
                    rig.absent.push((found.peer.name.clone(), found.peer.title.clone(), why));
                }
            }
        }
        Ok(rig)
    }
}

impl Seat {
    fn direct(lab: &Lab) -> Result<Self, LabError> {
        let (client, server, app) = hosts(lab, "direct")?;
        let seat = Self {
            name: "direct".to_owned(),
            title: "no proxy".to_owned(),
            kind: Kind::Direct,
            version: String::new(),
            cannot: Vec::new(),
            most: None,
            questions: Vec::new(),
            target: SocketAddr::new(server.v4(), PORT),
            flag: lab.folder().join(format!("go-{}", client.name())),
            client,
            app,
            inbound: None,
            outbound: None,
            start_memory: Memory::default(),
        };
        seat.wait_for_echo()?;
        Ok(seat)
    }

    fn start(lab: &Lab, folder: &Path, found: &Found, files: (&Files, &Files)) -> Result<Self, LabError> {
        let peer = &found.peer;
        let (client, server, app) = hosts(lab, &peer.name)?;
        let program = within_reach(folder, &peer.name, &found.program)?;
        let proxy = |node: &Node, role: &Role, what: &str, files: &Files| {
            let own = folder.join(format!("{}-{what}", peer.name));
            make_folder(&own)?;
            let values = values(&own, files, &program, &server);
            if role.capture {
                apply_rules(node)?;
            }
            start_proxy(node, role, &own, &values, what)
        };
        let outbound =
            peer.outbound.as_ref().map(|role| proxy(&client, role, "outbound", files.0)).transpose()?;
        let inbound = proxy(&server, &peer.inbound, "inbound", files.1)?;
        let mut seat = Self {
            name: peer.name.clone(),
            title: peer.title.clone(),
            kind: peer.kind,
            version: found.version.clone(),
            cannot: peer.cannot.clone(),
            most: peer.most,
            questions: peer.questions.clone(),
            target: SocketAddr::new(server.v4(), PORT),
            flag: lab.folder().join(format!("go-{}", client.name())),
            client,
            app,
            inbound: Some(inbound),
            outbound,
            start_memory: Memory::default(),
        };
        seat.wait_for_echo()?;
        seat.start_memory = seat.memory();
        Ok(seat)
    }

    /// Until a byte comes back through all that lies between.
    fn wait_for_echo(&self) -> Result<(), LabError> {
        let what = format!("a byte to come back through {}", self.title);
        let waited = wait_until(START, &what, || {
            for (_, process) in self.processes() {
                process.check_running()?;
            }
            let echo = || {
                let mut stream = self.client.dial(self.target)?;
                stream.write_all(b"e")?;
                stream.read_exact(&mut [0_u8; 1])
            };
            Ok(echo().ok())
        });
        waited.map_err(|error| error.having_seen(|| self.tails()))
    }

    /// The end of what its proxies have printed.
    fn tails(&self) -> String {
        self.processes().filter(|(role, _)| *role != "app").map(|(_, process)| process.tail()).collect()
    }

    /// Whether it takes part in a question.
    pub(crate) fn is_asked(&self, id: &str) -> bool {
        self.questions.is_empty() || self.questions.iter().any(|question| question == id)
    }

    /// Whether it terminates TLS of others at the server.
    pub(crate) fn speaks_tls(&self) -> bool {
        matches!(self.kind, Kind::Pillion | Kind::Peer) && self.outbound.is_some()
    }

    /// Its processes by what they are: `inbound`, `outbound`, `app`.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (&'static str, &Process)> {
        [("inbound", self.inbound.as_ref()), ("outbound", self.outbound.as_ref()), ("app", Some(&self.app))]
            .into_iter()
            .filter_map(|(role, process)| Some((role, process?)))
    }

    /// Of its proxies, now.
    pub(crate) fn memory(&self) -> Memory {
        let of = |process: &Option<Process>| process.as_ref().map(|process| cpu::memory(&[process.id()]));
        Memory { inbound: of(&self.inbound), outbound: of(&self.outbound) }
    }
}

/// A client and a server with its app.
fn hosts(lab: &Lab, name: &str) -> Result<(Node, Node, Process), LabError> {
    let (client, server) = (lab.node(&format!("c-{name}"))?, lab.node(&format!("s-{name}"))?);
    for node in [&client, &server] {
        prepare(node)?;
    }
    widen(&client, &server);
    let app = server.start_pillion("app", &["bench-part", "app", "--listen", &format!("0.0.0.0:{PORT}")])?;
    app.wait_for_line(START, "listening on")?;
    Ok((client, server, app))
}

/// Gives root at the client another address than its proxies have. A kernel that cannot route by user works too, only sooner at
/// its limits.
fn widen(client: &Node, server: &Node) {
    let (own, far, to) = (second(client), second(server), server.v4().to_string());
    let ip = |node: &Node, words: &str| node.run("ip", &words.split(' ').collect::<Vec<_>>());
    let _ = ip(server, &format!("address add {far}/24 dev eth0"))
        .and_then(|_| ip(client, &format!("address add {own}/24 dev eth0")))
        .and_then(|_| ip(client, &format!("route add {to} dev eth0 src {own} table {TABLE}")))
        .and_then(|_| ip(client, &format!("rule add uidrange 0-0 lookup {TABLE}")));
}

fn second(node: &Node) -> IpAddr {
    match node.v4() {
        IpAddr::V4(first) => {
            let [a, b, _, d] = first.octets();
            Ipv4Addr::new(a, b, SECOND, d).into()
        }
        other @ IpAddr::V6(_) => other,
    }
}

/// Says what [`SETTINGS`] are. A kernel without one of them works too, only sooner at its limits.
pub(crate) fn prepare(node: &Node) -> Result<(), LabError> {
    node.enter(|| {
        for (name, value) in SETTINGS {
            let _ = fs::write(format!("/proc/sys/net/{name}"), value);
        }
    })
}

fn apply_rules(node: &Node) -> Result<(), LabError> {
    let user = PROXY_USER.to_string();
    run(node.pillion(&["iptables", "apply", "-m", "REDIRECT", "-u", &user, "-g", &user])).map(drop)
}

fn values(own: &Path, files: &Files, program: &Path, server: &Node) -> Values {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let text = |path: &Path| path.display().to_string();
    Values(
        [
            ("dir", text(own)),
            ("certificate", text(&files.certificate)),
            ("key", text(&files.key)),
            ("bundle", text(&files.bundle)),
            ("combined", text(&combined(files))),
            ("workers", cores.to_string()),
            ("server", server.v4().to_string()),
            ("program", text(program)),
        ]
        .into(),
    )
}

fn start_proxy(
    node: &Node,
    role: &Role,
    own: &Path,
    values: &Values,
    what: &str,
) -> Result<Process, LabError> {
    for (name, text) in &role.files {
        let path = own.join(name);
        if let Some(parent) = path.parent() {
            make_folder(parent)?;
        }
        write(&path, &values.fill(text)?, Some(PROXY_USER))?;
    }
    let words = role.command.iter().map(|word| values.fill(word)).collect::<Result<Vec<_>, _>>()?;
    let (program, arguments) =
        words.split_first().ok_or_else(|| LabError::Failed("no command".to_owned()))?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    node.start_command(what, node.program_as_proxy(Path::new(program), &arguments, false))
}

/// The program of the contestant `name`, where the proxies' user can execute it: another name of it, in a folder of its own,
/// where that which it is in may be closed to others.
fn within_reach(folder: &Path, name: &str, program: &Path) -> Result<PathBuf, LabError> {
    let open = ["/usr", "/bin", "/sbin", "/opt"].iter().any(|root| program.starts_with(root));
    let Some(file) = program.file_name().filter(|_| !open) else {
        return Ok(program.to_owned());
    };
    // Programs of two contestants may be called the same.
    let own = folder.join(format!("{name}-program"));
    fs::create_dir_all(&own)
        .and_then(|()| fs::set_permissions(&own, fs::Permissions::from_mode(0o755)))
        .map_err(LabError::io(format!("make {}", own.display())))?;
    let here = own.join(file);
    if !here.exists() && fs::hard_link(program, &here).is_err() {
        fs::copy(program, &here).map_err(LabError::io(format!("copy {}", program.display())))?;
    }
    Ok(here)
}

fn make_folder(path: &Path) -> Result<(), LabError> {
    let made = fs::create_dir_all(path)
        .and_then(|()| std::os::unix::fs::chown(path, Some(PROXY_USER), Some(PROXY_USER)));
    made.map_err(LabError::io(format!("make {}", path.display())))
}

/// The line of an error that says most: the last of the log that it shows, or its own.
pub(crate) fn last_line(error: &LabError) -> String {
    let text = error.to_string();
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contestants_whose_programs_are_called_the_same_run_each_its_own() {
        let (folder, old, new) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (place, text) in [(&old, "old"), (&new, "new")] {
            fs::write(place.path().join("proxy"), text).unwrap();
        }
        for (name, place, text) in [("before", &old, "old"), ("after", &new, "new"), ("before", &old, "old")]
        {
            let program = within_reach(folder.path(), name, &place.path().join("proxy")).unwrap();
            assert_eq!(program.file_name().unwrap(), "proxy", "by its name it may know what to be");
            assert_eq!(fs::read_to_string(program).unwrap(), text);
        }
        assert_eq!(
            within_reach(folder.path(), "others", Path::new("/usr/bin/env")).unwrap(),
            Path::new("/usr/bin/env")
        );
    }
}
