//! A mesh of real processes for the demo and for end-to-end tests: network namespaces that a switch joins, a CA,
//! sidecars with their interception rules, and any app.
//!
//! Everything that a [`Lab`] makes has a name of its own (`pillion-<process>-<count>-…`), so that labs run side by
//! side, and is taken down when the lab is dropped, also by a panic. What a killed process left behind is removed by
//! the next lab. Every wait has a deadline, and an error shows the end of the log that explains it.
//!
//! ```no_run
//! use std::path::Path;
//! use std::time::Duration;
//! use pillion_cli::lab::{Lab, Mesh, Service, Sidecar};
//!
//! # fn main() -> Result<(), pillion_cli::lab::LabError> {
//! // In a test: Path::new(env!("CARGO_BIN_EXE_pillion")). None means that there can be no lab here: skip.
//! let Some(lab) = Lab::for_test(Path::new("target/debug/pillion"))? else { return Ok(()) };
//! let (client, server, legacy) = (lab.node("client")?, lab.node("server")?, lab.node("legacy")?);
//! let ca = lab.ca(&["client", "server"], "")?;
//!
//! // An app is any program; it can be reached from other nodes as http://server:8080.
//! let app = server.start_pillion("app", &["example", "backend", "--listen", "0.0.0.0:8080"])?;
//! app.wait_for_line(Duration::from_secs(5), "listening on")?;
//!
//! // What the mesh knows: shared by all sidecars of the lab, reloaded when written to.
//! lab.mesh().service(&Service::of("server", 8080, &[server.v4()]))?;
//! lab.mesh().write("strict.yaml", &Mesh::peer_authentication("strict", Some("server"), "STRICT"))?;
//!
//! // Rules, then the proxy; back when it is ready.
//! let sidecar = Sidecar::new("server").start(&server, &ca)?;
//! let client_sidecar = Sidecar::new("client").tproxy().start(&client, &ca)?;
//! sidecar.wait_for_mode(Duration::from_secs(5), 8080, "STRICT")?;
//!
//! // Any code can run inside a node: what it dials or listens on belongs to that namespace.
//! let url = format!("http://{}:8080/", server.v4());
//! assert!(client.get(&url).unwrap().is_success());
//! assert_eq!(legacy.get(&url).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
//!
//! // What the sidecar says of it, and what went over the wire.
//! let record = sidecar.wait_for_record(Duration::from_secs(5), |record| record.tls.is_some())?;
//! # Ok(()) }
//! ```

mod ca;
mod mesh;
mod node;
mod process;
mod sidecar;
mod wait;
mod way;

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub use ca::Ca;
pub(crate) use ca::TRUST_DOMAIN;
pub use mesh::{Mesh, Service};
pub use node::Node;
pub(crate) use node::write_script;
pub use process::{Process, run};
pub use sidecar::{RunningSidecar, Sidecar};
pub(crate) use wait::{check_interrupt, watch_signals};
pub use wait::{interrupt, wait_until};
pub(crate) use way::own_executable;
pub use way::{USER_NAMESPACE_FLAG, Way, check_user_namespace, enter_user_namespace};

/// The uid and gid of proxies and CA, which the rules exempt from capture.
pub const PROXY_USER: u32 = 1337;

/// The mark on the sockets of a proxy that has no uid of its own (inside a user namespace).
pub const PROXY_MARK: u32 = 1337;

/// What kept the lab from doing what was asked.
#[derive(thiserror::Error)]
pub enum LabError {
    /// Neither as root nor in a user namespace can namespaces and rules be made here.
    #[error("network namespaces cannot be made here: {0}")]
    Impossible(String),
    /// A file, a socket or a system call.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A command ended with another status than 0.
    #[error("{command} ended with {status}:\n{output}")]
    Command {
        /// Program and arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed.
        output: String,
    },
    /// A process that should run has ended.
    #[error("{name} has ended with {status}; its last lines:\n{output}")]
    Ended {
        /// Which process.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        output: String,
    },
    /// A condition did not come true in time.
    #[error("waited {seconds:.1} s in vain for {what}\n{seen}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: f64,
        /// What was seen instead, or the end of the log.
        seen: String,
    },
    /// What was asked cannot be had, for the reason that it says.
    #[error("{0}")]
    Failed(String),
    /// SIGINT or SIGTERM came.
    #[error("interrupted")]
    Interrupted,
}

/// As a person reads it, so that `unwrap` in a test shows a log line by line.
impl fmt::Debug for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl LabError {
    /// Wraps what the system said; for use in `map_err`.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> LabError {
        let what = what.into();
        move |source| LabError::Io { what, source }
    }
}

/// Networks, folder and names of one mesh. Dropped, it takes everything down that still runs in its namespaces.
#[derive(Debug)]
pub struct Lab {
    mesh: Mesh,
    count: AtomicU32,
    shared: Arc<Shared>,
}

/// What nodes, processes and sidecars need of their lab.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) way: Way,
    /// `pillion-<process>-<count>`.
    pub(crate) name: String,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) executable: PathBuf,
}

impl Lab {
    /// Makes the switch and the folder. `executable` is the `pillion` that all processes of the lab run; it is copied
    /// to where every user can execute it.
    ///
    /// # Errors
    /// When a namespace or a file cannot be made.
    pub fn new(way: Way, executable: &Path) -> Result<Self, LabError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        way::sweep();
        let name = format!("pillion-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .map_err(LabError::io("make the lab's folder"))?;
        let copy = folder.path().join("pillion");
        fs::copy(executable, &copy)
            .and_then(|_| fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)))
            .map_err(LabError::io(format!("copy {}", executable.display())))?;
        let shared = Arc::new(Shared { way, name, folder, executable: copy });
        let mesh = Mesh::new(shared.make_folder("mesh")?);
        // From here on it is dropped as a whole.
        let lab = Self { mesh, count: AtomicU32::new(0), shared };
        lab.shared.make_folder("logs")?;
        let hosts = lab.shared.hosts();
        fs::write(&hosts, "127.0.0.1 localhost\n::1 localhost\n")
            .map_err(LabError::io(format!("write {}", hosts.display())))?;
        if way != Way::Loopback {
            node::make_switch(&lab.shared)?;
            node::write_enter_scripts(&lab.shared)?;
        }
        Ok(lab)
    }

    /// A lab for a test, or `None` with a message where there can be none: the test is then skipped. Where the variable
    /// `CI` is `true`, a skip is a failure.
    ///
    /// # Errors
    /// As [`Lab::new`]; under CI those of [`Way::here`] too.
    pub fn for_test(executable: &Path) -> Result<Option<Self>, LabError> {
        match Way::here() {
            Ok(way) => Self::new(way, executable).map(Some),
            Err(error) if std::env::var("CI").is_ok_and(|ci| ci == "true") => Err(error),
            Err(error) => {
                eprintln!("SKIPPED, run it as root: {error}");
                Ok(None)
            }
        }
    }

    /// A new host in the lab's network with a namespace and addresses of its own, called `name` by all others. Without
    /// namespaces it is this machine, at 127.0.0.1.
    ///
    /// # Errors
    /// When the namespace cannot be made, or after 250 nodes.
    pub fn node(&self, name: &str) -> Result<Node, LabError> {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 2;
        let number = u8::try_from(number)
            .ok()
            .filter(|number| *number < 253)
            .ok_or_else(|| LabError::Impossible("a lab holds 250 nodes".to_owned()))?;
        Node::make(&self.shared, name, number)
    }

    /// The switch itself, which sees all that goes between the nodes: the place to listen from.
    #[must_use]
    pub fn switch(&self) -> Node {
        Node::switch(&self.shared)
    }

    /// Starts a CA on a node of its own and waits until it is ready. Each of `service_accounts` (of namespace
    /// `default`, or `namespace/name`) may have its certificate. `settings` are further lines of its configuration.
    ///
    /// # Errors
    /// When it does not become ready in time.
    pub fn ca(&self, service_accounts: &[&str], settings: &str) -> Result<Ca, LabError> {
        Ca::start(self.node("ca")?, service_accounts, settings)
    }

    /// The resources that all sidecars of the lab watch.
    #[must_use]
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// How the nodes are kept apart.
    #[must_use]
    pub fn way(&self) -> Way {
        self.shared.way
    }

    /// Where configurations, logs and the mesh folder are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.shared.folder.path()
    }

    /// The script that runs a command inside a node: `SCRIPT NODE COMMAND…`. Absent without namespaces.
    #[must_use]
    pub fn enter_script(&self) -> PathBuf {
        self.folder().join("in")
    }
}

impl Shared {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn hosts(&self) -> PathBuf {
        self.path("hosts")
    }

    /// A folder of the lab, made where it is missing, that belongs to the proxies' user.
    pub(crate) fn make_folder(&self, name: &str) -> Result<PathBuf, LabError> {
        let path = self.path(name);
        fs::create_dir_all(&path).map_err(LabError::io(format!("make {}", path.display())))?;
        if self.way == Way::Root {
            std::os::unix::fs::chown(&path, Some(PROXY_USER), Some(PROXY_USER))
                .map_err(LabError::io(format!("give {} to uid {PROXY_USER}", path.display())))?;
        }
        Ok(path)
    }
}

impl Drop for Lab {
    /// Also while somebody still holds a node or a process: whatever runs in the namespaces is killed.
    fn drop(&mut self) {
        if self.shared.way != Way::Loopback {
            way::remove_namespaces(&format!("{}-", self.shared.name));
        }
        // What cannot be removed now is removed by the next lab.
        let _ = fs::remove_dir_all(self.folder());
    }
}

/// A port of 127.0.0.1 that was free a moment ago. It lies below those that the kernel gives to outgoing connections,
/// one of which could take it meanwhile; and each process begins to look in a block of its own.
pub(crate) fn free_port() -> Result<u16, LabError> {
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    const BLOCK: u32 = 20;
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let mut last = io::ErrorKind::AddrInUse.into();
    for _ in PORTS {
        let turn = std::process::id().wrapping_mul(BLOCK).wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed));
        let offset = u16::try_from(turn % u32::from(PORTS.end - PORTS.start)).unwrap_or_default();
        match std::net::TcpListener::bind(("127.0.0.1", PORTS.start + offset)) {
            Ok(_listener) => return Ok(PORTS.start + offset),
            Err(error) => last = error,
        }
    }
    Err(LabError::io("find a free port")(last))
}
