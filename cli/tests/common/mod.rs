//! What the end-to-end tests share: a client, a server and a stranger on hosts of their own, and what is asked of them.

// Each test crate uses a part of it.
#![allow(dead_code)]

pub(crate) mod console;
pub(crate) mod http;
pub(crate) mod identity;
pub(crate) mod load;
pub(crate) mod process;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use pillion_cli::lab::{Ca, Lab, Mesh, Node, Process, RunningSidecar, Service, Sidecar, Way};

pub(crate) const PILLION: &str = env!("CARGO_BIN_EXE_pillion");

/// More than anything takes that works, on a busy machine too.
pub(crate) const SOON: Duration = Duration::from_secs(15);

pub(crate) const CLIENT_ID: &str = "spiffe://cluster.local/ns/default/sa/client";
pub(crate) const SERVER_ID: &str = "spiffe://cluster.local/ns/default/sa/server";

/// The port of the service `server`.
pub(crate) const PORT: u16 = 8080;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(self, node: &Node) -> IpAddr {
        if self == Family::V4 { node.v4() } else { node.v6() }
    }

    pub(crate) fn any(self) -> IpAddr {
        if self == Family::V4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
    }

    pub(crate) fn loopback(self) -> IpAddr {
        if self == Family::V4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
    }

    /// Where a sidecar dials its app from.
    pub(crate) fn sidecar_source(self) -> IpAddr {
        let text = if self == Family::V4 { "127.0.0.6" } else { "::6" };
        text.parse().unwrap()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interception {
    Redirect,
    Tproxy,
}

impl Interception {
    pub(crate) fn sidecar(self, service_account: &str) -> Sidecar {
        let sidecar = Sidecar::new(service_account);
        if self == Interception::Tproxy { sidecar.tproxy() } else { sidecar }
    }
}

/// A lab, or `None` with a message where there can be none. Under CI a skip is a failure.
pub(crate) fn lab() -> Option<Lab> {
    let lab = Lab::for_test(Path::new(PILLION)).unwrap()?;
    if lab.way() == Way::Root {
        return Some(lab);
    }
    skip("the proxies need a uid of their own, which this user namespace does not have");
    None
}

/// Says why a test is not run. Under CI that is a failure.
pub(crate) fn skip(why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "this test must not be skipped in CI: {why}");
    eprintln!("SKIPPED: {why}");
}

/// A CA and three hosts: `client` and `server`, which are to have a sidecar, and `stranger`, which has none.
pub(crate) struct Stage {
    pub(crate) client: Node,
    pub(crate) server: Node,
    pub(crate) stranger: Node,
    pub(crate) ca: Ca,
    pub(crate) lab: Lab,
}

impl Stage {
    pub(crate) fn new() -> Option<Self> {
        Self::with_ca("")
    }

    /// With further settings of the CA.
    pub(crate) fn with_ca(settings: &str) -> Option<Self> {
        let lab = lab()?;
        let [client, server, stranger] = ["client", "server", "stranger"].map(|name| lab.node(name).unwrap());
        let ca = lab.ca(&["client", "server"], settings).unwrap();
        let service = Service::of("server", PORT, &[server.v4(), server.v6()]);
        lab.mesh().service(&service).unwrap();
        Some(Self { client, server, stranger, ca, lab })
    }

    /// Writes what the ports of `server` accept; `wait_for_mode` of its sidecar tells when it holds.
    pub(crate) fn mode(&self, mode: &str) {
        let policy = Mesh::peer_authentication("server", Some("server"), mode);
        self.lab.mesh().write("policy.yaml", &policy).unwrap();
    }

    /// The sidecars of client and server.
    pub(crate) fn sidecars(&self, interception: Interception) -> (RunningSidecar, RunningSidecar) {
        let start = |name, node: &Node| interception.sidecar(name).start(node, &self.ca).unwrap();
        (start("client", &self.client), start("server", &self.server))
    }

    /// The service's app: `backend` (which tells who called), `echo` or `greeter`.
    pub(crate) fn app(&self, kind: &str, ip: IpAddr) -> Process {
        let listen = SocketAddr::new(ip, PORT).to_string();
        let app = self.server.start_pillion("app", &["example", kind, "--listen", &listen]).unwrap();
        app.wait_for_line(SOON, "listening on").unwrap();
        app
    }

    /// Where the service is called.
    pub(crate) fn service(&self, family: Family) -> SocketAddr {
        SocketAddr::new(family.of(&self.server), PORT)
    }
}

/// A resource that changes nothing: once a sidecar knows it, what was written with it in one file is in force.
pub(crate) fn marker(name: &str) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}.marker]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 1, name: none, protocol: TCP}}]
  endpoints: [{{address: 192.0.2.1}}]
"
    )
}

pub(crate) fn wait_for_marker(sidecar: &RunningSidecar, name: &str) {
    let host = format!("{name}.marker");
    let is_known = |page: &serde_json::Value| {
        page["endpoints"].as_array().is_some_and(|all| all.iter().any(|endpoint| endpoint["host"] == *host))
    };
    sidecar.wait_for_page(SOON, "/endpoints", &format!("the resources with {host}"), is_known).unwrap();
}

/// Whom a `backend` saw as its client.
pub(crate) fn seen_client(from: &Node, address: SocketAddr) -> io::Result<IpAddr> {
    let answer = from.get(&format!("http://{address}/"))?;
    assert!(answer.is_success(), "{answer:?}");
    let seen: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let client: SocketAddr = seen["client"].as_str().unwrap().parse().unwrap();
    Ok(client.ip().to_canonical())
}

/// Sends `bytes`, ends that direction, and returns all that comes back.
pub(crate) fn exchange(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(bytes)?;
    match stream.shutdown(Shutdown::Write) {
        // It was reset meanwhile, which reading tells.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
        done => done?,
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// A new connection to an `echo`: whether it gives back what it got.
pub(crate) fn echoes(from: &Node, address: SocketAddr) -> io::Result<()> {
    let answer = exchange(&from.dial(address)?, b"hello, echo")?;
    if answer == b"hello, echo" {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("the echo answered {answer:?}")))
}

/// `errno` as a client sees it when it talks over a connection that is refused.
pub(crate) fn errno_of_call(from: &Node, address: SocketAddr) -> Option<i32> {
    let refused = from.dial(address).and_then(|stream| exchange(&stream, b"GET / HTTP/1.0\r\n\r\n"));
    refused.expect_err("an answer came").raw_os_error()
}

/// Of `errno.h`.
pub(crate) const ECONNRESET: i32 = 104;
