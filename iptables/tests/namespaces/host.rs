//! Network namespaces for the tests: made, entered and removed by name; servers in them that say who they are.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::{Gid, LinkNameSpaceType, Uid};
use socket2::{Domain, Protocol, Socket, Type};

/// How long anything may take that works at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// The user that stands for the app.
pub(crate) const APP: u32 = 1000;
/// The user that the proxy runs as.
pub(crate) const PROXY: u32 = 1337;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pillion-iptables");
const TOOLS: [&str; 9] = [
    "ip",
    "nft",
    "iptables-nft-restore",
    "ip6tables-nft-restore",
    "iptables-legacy-restore",
    "ip6tables-legacy-restore",
    "iptables-restore",
    "unshare",
    "setpriv",
];

/// Whether this machine can run these tests. Where it cannot they are skipped and say so; in CI that is a failure.
pub(crate) fn can_run() -> bool {
    let missing: Vec<_> = TOOLS.into_iter().filter(|tool| !is_installed(tool)).collect();
    let why = if !rustix::process::geteuid().is_root() {
        "network namespaces need root".to_owned()
    } else if !missing.is_empty() {
        format!("not installed: {}", missing.join(", "))
    } else {
        return true;
    };
    assert!(std::env::var("CI").as_deref() != Ok("true"), "this test must not be skipped in CI: {why}");
    eprintln!("skipped: {why}");
    false
}

fn is_installed(tool: &str) -> bool {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|folder| std::path::Path::new(folder).join(tool).exists())
}

/// A network namespace with lo up; removed at the end of the test, failed or not.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = Self { name: format!("pillion-ipt-{}-{count}", std::process::id()) };
        succeed(Command::new("ip").args(["netns", "add", &namespace.name]));
        namespace.sh("ip link set lo up");
        namespace
    }

    /// Joins the two by a cable: 10.77.0.1 and fd77::1 at this end, 10.77.0.2 and fd77::2 at the other.
    pub(crate) fn join(&self, other: &Self) {
        self.sh(&format!("ip link add eth0 type veth peer name eth0 netns {}", other.name));
        for (namespace, host) in [(self, 1), (other, 2)] {
            namespace.sh(&format!("ip address add 10.77.0.{host}/24 dev eth0"));
            namespace.sh(&format!("ip address add fd77::{host}/64 dev eth0 nodad"));
            namespace.sh("ip link set eth0 up");
        }
        wait_until("the cable is plugged in", || self.sh("cat /sys/class/net/eth0/operstate").trim() == "up");
    }

    /// A command, its program run in this namespace.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(words);
        command
    }

    /// What a script prints; it must succeed.
    pub(crate) fn sh(&self, script: &str) -> String {
        succeed(&mut self.command(&["sh", "-c", script]))
    }

    /// Runs pillion-iptables, its arguments with spaces between.
    pub(crate) fn pillion(&self, arguments: &str) -> Output {
        let words: Vec<_> = [PROGRAM].into_iter().chain(arguments.split_whitespace()).collect();
        self.command(&words).output().unwrap()
    }

    /// The same, and it must succeed.
    pub(crate) fn pillion_ok(&self, arguments: &str) -> String {
        let output = self.pillion(arguments);
        let printed = text_of(&output);
        assert!(output.status.success(), "pillion-iptables {arguments}: {printed}");
        printed
    }

    /// Gives rules to `iptables-<back end>-restore --noflush`.
    pub(crate) fn restore(&self, program: &str, rules: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), rules).unwrap();
        self.sh(&format!("{program} --noflush < {}", file.path().display()));
    }

    /// Runs the closure on a thread in this namespace, as this user and group.
    pub(crate) fn run_as<T: Send>(&self, uid: u32, gid: u32, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                enter(&self.name);
                become_user(uid, gid);
                body()
            });
            entered.join().unwrap()
        })
    }

    /// Who answers a connection that this user makes: the name that the server says, or why there is none.
    pub(crate) fn dial(&self, uid: u32, gid: u32, to: SocketAddr) -> String {
        self.run_as(uid, gid, || answer(to)).unwrap_or_else(|error| error.kind().to_string())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

fn enter(name: &str) {
    let namespace = std::fs::File::open(format!("/run/netns/{name}")).unwrap();
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

fn become_user(uid: u32, gid: u32) {
    if uid == 0 && gid == 0 {
        return;
    }
    rustix::thread::set_thread_groups(&[]).unwrap();
    let gid = Gid::from_raw(gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
    let uid = Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
}

fn answer(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text_of(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// What a program printed, on both streams.
pub(crate) fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A TCP server on its own thread, stopped when dropped.
pub(crate) struct Server {
    socket: Socket,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on the port of every address of one family, and does this with each connection.
    pub(crate) fn start(
        namespace: &Namespace,
        address: SocketAddr,
        transparent: bool,
        serve: impl Fn(TcpStream) + Send + 'static,
    ) -> Self {
        let socket = namespace.run_as(0, 0, || listening(address, transparent));
        let listener: TcpListener = socket.try_clone().unwrap().into();
        let name = namespace.name.clone();
        let thread = thread::spawn(move || {
            // So that sockets that `serve` opens are there too.
            enter(&name);
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                serve(stream);
            }
        });
        Self { socket, thread: Some(thread) }
    }

    /// Says its name to whoever connects.
    pub(crate) fn named(
        namespace: &Namespace,
        name: &'static str,
        address: SocketAddr,
        transparent: bool,
    ) -> Self {
        Self::start(namespace, address, transparent, move |mut stream| {
            // A client that is gone already does not want to know.
            let _ = stream.write_all(name.as_bytes());
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes the thread: accept fails on a socket that is shut down.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listening(address: SocketAddr, transparent: bool) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_reuse_address(true).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    if transparent {
        set_transparent(&socket, address.ip());
    }
    socket.bind(&address.into()).unwrap();
    socket.listen(16).unwrap();
    socket
}

pub(crate) fn set_transparent(socket: &Socket, address: IpAddr) {
    if address.is_ipv4() {
        socket.set_ip_transparent_v4(true).unwrap();
    } else {
        socket.set_ip_transparent_v6(true).unwrap();
    }
}

/// A UDP server that answers so many datagrams with its name.
pub(crate) fn udp_server(
    namespace: &Namespace,
    name: &'static str,
    address: SocketAddr,
    answers: usize,
) -> JoinHandle<()> {
    let socket = namespace.run_as(0, 0, || UdpSocket::bind(address).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        for _ in 0..answers {
            if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(name.as_bytes(), from).unwrap();
            }
        }
    })
}
