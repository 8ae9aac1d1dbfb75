//! `Gateway` (networking.istio.io): what an edge proxy listens for.
//!
//! Servers of plaintext HTTP; where their requests go is said by [`super::VirtualService`].

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Meta;
use super::host::{HostPattern, hint};
use super::meta::is_dns_label;
use super::port_number::PortNumber;
use crate::workload::{Labels, Selector};
use crate::yaml::{At, Document, YamlError, expected_one_of, quoted};

/// One checked `Gateway`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Name, namespace, place.
    pub meta: Meta,
    /// `spec.selector`: the edge proxies that it is for, of any namespace; empty is every one.
    pub selector: Selector,
    /// `spec.servers`; at least one.
    pub servers: Vec<Server>,
}

/// One `spec.servers` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `port.number`: where the edge proxy listens.
    pub port: u16,
    /// `hosts`; at least one.
    pub hosts: Vec<ServerHost>,
}

/// Which hosts of which namespaces a server takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHost {
    /// The namespace of the `VirtualService`; `None` is any.
    pub namespace: Option<String>,
    /// The hosts.
    pub host: HostPattern,
}

/// `spec` as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    #[serde(default)]
    selector: Labels,
    servers: At<Vec<At<WrittenServer>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenServer {
    port: WrittenPort,
    hosts: At<Vec<At<String>>>,
    bind: Option<At<IgnoredAny>>,
    tls: Option<At<IgnoredAny>>,
    default_endpoint: Option<At<IgnoredAny>>,
    /// Told nowhere.
    #[serde(rename = "name")]
    _name: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenPort {
    number: PortNumber,
    protocol: At<String>,
    /// Told nowhere.
    #[serde(rename = "name")]
    _name: Option<IgnoredAny>,
    target_port: Option<At<IgnoredAny>>,
}

/// Istio's validation as far as plaintext HTTP goes; everything else is refused.
pub(super) fn check(document: &Document<'_>, meta: Meta, spec: At<Spec>) -> Result<Gateway, YamlError> {
    let Spec { selector, servers } = spec.value;
    if servers.value.is_empty() {
        return Err(document.error(&servers, "servers is empty; a gateway listens on at least one port"));
    }
    let servers = servers.value.into_iter().map(|server| check_server(document, server.value));
    Ok(Gateway {
        selector: Selector { match_labels: selector },
        servers: servers.collect::<Result<_, _>>()?,
        meta,
    })
}

fn check_server(document: &Document<'_>, server: WrittenServer) -> Result<Server, YamlError> {
    let WrittenServer { port, hosts, bind, tls, default_endpoint, .. } = server;
    for (field, why) in [
        (&tls, "`tls`: this edge takes plaintext HTTP; end TLS in front of it, and take `tls` out"),
        (&bind, "`bind`: the address is the edge proxy's setting gateway.address; take it out"),
        (&default_endpoint, "`defaultEndpoint` is not supported; route by a VirtualService"),
        (
            &port.target_port,
            "`targetPort`: on which other port is listened is the edge proxy's setting gateway.ports; take it out",
        ),
    ] {
        if let Some(field) = field {
            return Err(document.error(field, why));
        }
    }
    check_protocol(document, &port.protocol)?;
    if hosts.value.is_empty() {
        return Err(document.error(&hosts, "hosts is empty; `*` takes every host"));
    }
    let hosts = hosts.value.iter().map(|host| check_host(document, host)).collect::<Result<_, _>>()?;
    Ok(Server { port: port.number.0, hosts })
}

fn check_protocol(document: &Document<'_>, protocol: &At<String>) -> Result<(), YamlError> {
    let seen = quoted(&protocol.value);
    match protocol.value.to_ascii_uppercase().as_str() {
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => Ok(()),
        "HTTPS" | "TLS" | "TCP" | "MONGO" | "MYSQL" | "REDIS" => Err(document.error(
            protocol,
            format!("protocol {seen}: this edge takes plaintext HTTP; say `protocol: HTTP`, and end TLS in front of it"),
        )),
        _ => {
            let expected = expected_one_of(&protocol.value, &["HTTP", "HTTP2", "GRPC"]);
            Err(document.error(protocol, format!("unknown protocol {seen}{expected}")))
        }
    }
}

/// `host`, or `namespace/host` with `*` for any namespace and `.` for the gateway's own.
fn check_host(document: &Document<'_>, written: &At<String>) -> Result<ServerHost, YamlError> {
    let (namespace, host) = match written.value.split_once('/') {
        Some((namespace, host)) => (Some(namespace), host),
        None => (None, written.value.as_str()),
    };
    let known_namespace = namespace.is_none_or(|name| name == "*" || name == "." || is_dns_label(name));
    match HostPattern::parse(host).filter(|_| known_namespace) {
        Some(host) => {
            let namespace = namespace.filter(|name| *name != "*").map(str::to_owned);
            Ok(ServerHost { namespace, host })
        }
        None => Err(document.error(
            written,
            format!(
                "expected a host name, one behind `*.`, or `*`, with `namespace/` before it or without, seen {}{}",
                quoted(&written.value),
                hint(&written.value)
            ),
        )),
    }
}
