//! One host of the lab: a network namespace with an address of each family, and what runs or dials inside it.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::{Process, run};
use super::way::{in_namespace, make_namespace, netns_file};
use super::{LabError, PROXY_USER, Shared, Way};
use crate::http::{self, Answer};
use crate::wiretap::Tap;

/// The bridge in the switch's namespace.
const BRIDGE: &str = "bridge";

/// How long code inside a node waits for a connection or for bytes, unless it says otherwise.
const PATIENCE: Duration = Duration::from_secs(5);

/// A host of the lab. Clones are the same host.
#[derive(Debug, Clone)]
pub struct Node {
    name: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    shared: Arc<Shared>,
}

impl Node {
    /// Makes node `number` of the lab and tells all others its name.
    pub(crate) fn make(shared: &Arc<Shared>, name: &str, number: u8) -> Result<Self, LabError> {
        if shared.way == Way::Loopback {
            let (v4, v6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
            return Ok(Self { name: name.to_owned(), v4, v6, shared: Arc::clone(shared) });
        }
        let node = Self {
            name: name.to_owned(),
            v4: Ipv4Addr::new(10, 83, 0, number),
            v6: Ipv6Addr::new(0xfd00, 0x83, 0, 0, 0, 0, 0, number.into()),
            shared: Arc::clone(shared),
        };
        make_namespace(&node.namespace())?;
        node.plug_in(number)?;
        add_host(shared, node.v4.into(), name)?;
        // An app that can speak both families then tries IPv4 first, as in most compose networks.
        add_host(shared, node.v6.into(), &format!("{name}-v6"))?;
        Ok(node)
    }

    pub(crate) fn switch(shared: &Arc<Shared>) -> Self {
        let (v4, v6) = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
        Self { name: "switch".to_owned(), v4, v6, shared: Arc::clone(shared) }
    }

    /// A cable from `eth0` of the node to the switch.
    fn plug_in(&self, number: u8) -> Result<(), LabError> {
        let (switch, own, port) = (switch_namespace(&self.shared), self.namespace(), format!("port{number}"));
        ip(&format!("-n {switch} link add {port} type veth peer name eth0 netns {own}"))?;
        ip(&format!("-n {switch} link set {port} master {BRIDGE} up"))?;
        ip(&format!("-n {own} link set lo up"))?;
        ip(&format!("-n {own} address add {}/24 dev eth0", self.v4))?;
        if has_ipv6() {
            ip(&format!("-n {own} address add {}/64 dev eth0 nodad", self.v6))?;
        }
        ip(&format!("-n {own} link set eth0 up"))
    }

    /// The name by which other nodes reach it; its IPv6 address is called `NAME-v6`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address.
    #[must_use]
    pub fn v4(&self) -> IpAddr {
        self.v4.into()
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn v6(&self) -> IpAddr {
        self.v6.into()
    }

    /// The network namespace as `ip netns` knows it.
    #[must_use]
    pub fn namespace(&self) -> String {
        format!("{}-{}", self.shared.name, self.name)
    }

    /// A command inside the node, as root, with the lab's host names. Run it by [`run`] or [`Node::start`].
    #[must_use]
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.shell();
        command.arg(program).args(args);
        command
    }

    /// The lab's `pillion` inside the node as the proxies' user, where there is one. With `network_admin` it may mark its
    /// sockets and bind foreign addresses (CAP_NET_ADMIN, CAP_NET_RAW), as TPROXY needs.
    pub(crate) fn command_as_proxy(&self, args: &[&str], network_admin: bool) -> Command {
        self.program_as_proxy(&self.shared.executable, args, network_admin)
    }

    /// The same with any program.
    pub(crate) fn program_as_proxy(&self, program: &Path, args: &[&str], network_admin: bool) -> Command {
        let mut command = self.shell();
        command.args(self.as_proxy(network_admin)).arg(program).args(args);
        command
    }

    /// What a command begins with that shall run as the proxies' user; nothing where there is no such user.
    pub(crate) fn as_proxy(&self, network_admin: bool) -> Vec<String> {
        if self.shared.way != Way::Root {
            return Vec::new();
        }
        let mut words = vec![
            "setpriv".to_owned(),
            format!("--reuid={PROXY_USER}"),
            format!("--regid={PROXY_USER}"),
            "--clear-groups".to_owned(),
        ];
        if network_admin {
            words.extend(["--inh-caps", "--ambient-caps"].map(|caps| format!("{caps}=+net_admin,+net_raw")));
        }
        words.push("--".to_owned());
        words
    }

    /// A command that executes its further arguments inside the node; its process id stays that of the program.
    fn shell(&self) -> Command {
        let mut command = if self.shared.way == Way::Loopback {
            Command::new("env")
        } else {
            let mut command = in_namespace(&self.namespace(), "sh");
            command.args(["-c", WITH_HOSTS, "sh"]).arg(self.shared.hosts());
            command
        };
        // Settings of the person's own environment are not the lab's.
        for (name, _) in std::env::vars_os() {
            if name == "RUST_LOG" || name.to_string_lossy().starts_with("PILLION_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Starts any program inside the node, as root. `name` is that of its log.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, name: &str, program: &str, args: &[&str]) -> Result<Process, LabError> {
        self.start_command(name, self.command(program, args))
    }

    /// Starts the lab's `pillion` inside the node, as root.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_pillion(&self, name: &str, args: &[&str]) -> Result<Process, LabError> {
        self.start_command(name, self.pillion(args))
    }

    /// The lab's `pillion` inside the node, as root.
    #[must_use]
    pub fn pillion(&self, args: &[&str]) -> Command {
        let mut command = self.shell();
        command.arg(&self.shared.executable).args(args);
        command
    }

    /// Runs a program inside the node to its end and returns its stdout.
    ///
    /// # Errors
    /// When it cannot be started or ends with another status than 0.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String, LabError> {
        run(self.command(program, args))
    }

    pub(crate) fn start_command(&self, name: &str, command: Command) -> Result<Process, LabError> {
        let full_name = format!("{}-{name}", self.name);
        let log = self.shared.path("logs").join(format!("{full_name}.log"));
        Process::start(&full_name, command, log)
    }

    /// Runs `work` on a thread inside the node and waits for it. Sockets that it opens stay in the node's network,
    /// wherever they are used later.
    ///
    /// # Errors
    /// When the namespace cannot be entered. A panic of `work` goes on in the caller.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        if self.shared.way == Way::Loopback {
            return Ok(work());
        }
        let entered = thread::scope(|scope| scope.spawn(|| self.move_this_thread().map(|()| work())).join());
        match entered {
            Ok(result) => result.map_err(LabError::io(format!("enter {}", self.namespace()))),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    fn move_this_thread(&self) -> io::Result<()> {
        let namespace = File::open(netns_file(&self.namespace()))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }

    /// Dials from inside the node. Reading and writing give up after five seconds, unless the caller changes it.
    ///
    /// # Errors
    /// Those of the socket: what a client sees is what a test looks at.
    pub fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.enter(|| {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        })
        .unwrap_or_else(|error| Err(io::Error::other(error.to_string())))
    }

    /// Listens inside the node.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        self.enter(|| TcpListener::bind(address))
            .unwrap_or_else(|error| Err(io::Error::other(error.to_string())))
    }

    /// A plain HTTP GET from inside the node, within five seconds. Names are looked up outside: give an address.
    ///
    /// # Errors
    /// Those of the socket; a reset of the other side is `ConnectionReset`.
    pub fn get(&self, url: &str) -> io::Result<Answer> {
        self.enter(|| http::get(url, PATIENCE))
            .unwrap_or_else(|error| Err(io::Error::other(error.to_string())))
    }

    /// Listens in on TCP traffic from or to `ports`, from now on. Inside a node it hears both the wire and the app's leg
    /// ([`crate::wiretap::Segment::is_app_leg`]), on [`super::Lab::switch`] the wire alone.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, so never on loopback.
    pub fn tap(&self, ports: &[u16]) -> Result<Tap, LabError> {
        self.enter(|| Tap::start(ports, None))?.map_err(LabError::io(format!("listen in on {}", self.name)))
    }

    pub(crate) fn way(&self) -> Way {
        self.shared.way
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// `sh -c` of this with the hosts file and a command: executes the command where the lab's names are known. `ip netns
/// exec` has given it a mount namespace of its own.
const WITH_HOSTS: &str = r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#;

/// The scripts that run a command inside a node: `in` for a person in any terminal, `on` for what runs beside the lab.
pub(crate) fn write_enter_scripts(shared: &Shared) -> Result<(), LabError> {
    let pid = std::process::id();
    // From outside of our user and mount namespace, both are entered first.
    let enter = match shared.way {
        Way::UserNamespace => format!("nsenter --target {pid} --user --mount --preserve-credentials "),
        Way::Root | Way::Loopback => String::new(),
    };
    write_enter_script(shared, "in", &enter)?;
    write_enter_script(shared, "on", "")
}

fn write_enter_script(shared: &Shared, name: &str, enter: &str) -> Result<(), LabError> {
    let script = format!(
        r#"#!/bin/sh
# Runs a command inside a node of the mesh: {name} NODE COMMAND…
[ $# -ge 2 ] || {{ echo "expected NODE COMMAND…, got: $*" >&2; exit 2; }}
[ -e /run/netns/{prefix}-"$1" ] || [ -n "{enter}" ] || {{ echo "there is no node $1 in this mesh" >&2; exit 2; }}
node=$1; shift
PATH={folder}:$PATH
exec {enter}ip netns exec {prefix}-"$node" sh -c '{WITH_HOSTS}' sh {hosts} "$@"
"#,
        folder = shared.folder.path().display(),
        prefix = shared.name,
        hosts = shared.hosts().display(),
    );
    write_script(&shared.path(name), &script)
}

/// Writes a file that everybody may execute.
pub(crate) fn write_script(path: &Path, script: &str) -> Result<(), LabError> {
    fs::write(path, script)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .map_err(LabError::io(format!("write {}", path.display())))
}

/// The namespace with the bridge that joins all nodes.
pub(crate) fn make_switch(shared: &Shared) -> Result<(), LabError> {
    let name = switch_namespace(shared);
    make_namespace(&name)?;
    ip(&format!("-n {name} link set lo up"))?;
    ip(&format!("-n {name} link add name {BRIDGE} type bridge"))?;
    ip(&format!("-n {name} link set {BRIDGE} up"))
}

fn switch_namespace(shared: &Shared) -> String {
    format!("{}-switch", shared.name)
}

fn ip(words: &str) -> Result<(), LabError> {
    let mut command = Command::new("ip");
    command.args(words.split(' '));
    run(command).map(drop)
}

/// Whether the kernel speaks IPv6; a node has no IPv6 address otherwise.
fn has_ipv6() -> bool {
    fs::exists("/proc/net/if_inet6").unwrap_or(false)
}

fn add_host(shared: &Shared, address: IpAddr, name: &str) -> Result<(), LabError> {
    use std::io::Write as _;
    let path = shared.hosts();
    // Appended, never replaced: running processes see the same file through their mount.
    fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .and_then(|mut file| writeln!(file, "{address} {name}"))
        .map_err(LabError::io(format!("write {}", path.display())))
}
