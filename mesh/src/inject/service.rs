//! What the mesh is told of workloads: a ServiceEntry and an identity for each, as files.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::yaml::tree::{self, Document, Node};

/// The first line of each file that is written, by which it is known to be ours.
pub const WRITTEN: &str = "# Written by `pillion inject`, and written anew by the next.";

/// A service and who serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    /// Of its ServiceEntry.
    pub(super) name: String,
    pub(super) namespace: String,
    /// The names by which it is called, the first being that of its endpoint.
    pub(super) hosts: Vec<String>,
    /// Its ports, and whether each speaks HTTP.
    pub(super) ports: BTreeMap<u16, bool>,
    /// The service account and the labels of its workload; `None` where it has no sidecar.
    pub(super) workload: Option<(String, BTreeMap<String, String>)>,
}

/// The ServiceEntries of services that have a port.
pub(super) fn services_file(services: &[Service]) -> String {
    let entries = services.iter().filter(|service| !service.ports.is_empty());
    let documents: Vec<Document> = entries.map(|service| Document::of(service.entry())).collect();
    format!("{WRITTEN}\n{}", tree::print(&documents))
}

impl Service {
    fn entry(&self) -> Node {
        let port = |(number, is_http): (&u16, &bool)| {
            let protocol = if *is_http { "HTTP" } else { "TCP" };
            Node::map([
                ("number", Node::word(number)),
                ("name", Node::text(format!("{}-{number}", protocol.to_ascii_lowercase()))),
                ("protocol", Node::text(protocol)),
            ])
            .on_one_line()
        };
        let mut endpoint = Node::map(self.hosts.first().map(|host| ("address", Node::text(host))));
        if let Some((account, labels)) = &self.workload {
            endpoint.set("serviceAccount", Node::text(account));
            let sidecar = ("security.istio.io/tlsMode", Node::text("istio"));
            let labels = labels.iter().map(|(key, value)| (key.as_str(), Node::text(value)));
            endpoint.set("labels", Node::map(labels.chain([sidecar])).on_one_line());
        }
        let metadata =
            Node::map([("name", Node::text(&self.name)), ("namespace", Node::text(&self.namespace))]);
        let spec = Node::map([
            ("hosts", Node::texts(&self.hosts)),
            ("location", Node::text("MESH_INTERNAL")),
            ("resolution", Node::text("DNS")),
            ("ports", Node::list(self.ports.iter().map(port))),
            ("endpoints", Node::list([endpoint])),
        ]);
        Node::map([
            ("apiVersion", Node::text("networking.istio.io/v1")),
            ("kind", Node::text("ServiceEntry")),
            ("metadata", metadata),
            ("spec", spec),
        ])
    }
}

/// The registrations of the CA's settings: who may have which identity, and where its token is put, if anywhere.
pub(super) fn registrations(identities: impl IntoIterator<Item = (String, Option<String>)>) -> Node {
    let registration = |(id, token): (String, Option<String>)| {
        let token = token.map(|file| ("tokenFile", Node::text(file)));
        Node::map([("id", Node::text(id))].into_iter().chain(token)).on_one_line()
    };
    Node::list(identities.into_iter().map(registration))
}

/// A settings file.
pub(super) fn file(comment: &str, root: Node) -> String {
    let mut text = format!("{WRITTEN}\n");
    for line in comment.lines() {
        let _ = writeln!(text, "# {line}"); // writing to a String cannot fail
    }
    text + &tree::print(&[Document::of(root)])
}

/// The ports at which texts such as `http://backend:8080/api` or `backend:8080` call a host.
pub(super) fn ports_called<'t>(host: &str, texts: impl IntoIterator<Item = &'t str>) -> Vec<u16> {
    let mut ports = Vec::new();
    for text in texts {
        for (at, _) in text.match_indices(host) {
            let before = text.get(..at).unwrap_or_default();
            let after = text.get(at + host.len()..).unwrap_or_default();
            let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if before.ends_with(is_name) || after.starts_with(is_name) {
                continue;
            }
            let digits = after.strip_prefix(':').map(|rest| {
                rest.split_once(|c: char| !c.is_ascii_digit()).map_or(rest, |(digits, _)| digits)
            });
            match digits {
                Some(digits) => ports.extend(digits.parse::<u16>().ok().filter(|port| *port != 0)),
                None if before.ends_with("http://") => ports.push(80),
                None if before.ends_with("https://") => ports.push(443),
                None => {}
            }
        }
    }
    ports
}
