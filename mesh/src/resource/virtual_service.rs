//! `VirtualService` (networking.istio.io): where an edge proxy sends the requests that a [`super::Gateway`] takes.
//!
//! Routes by host and by path, each to one service. What would change requests, or spread them, is refused. Sidecars do
//! not route: for the mesh itself (`gateways` absent, or `mesh` among them) only a route that leads where the client goes
//! anyway is taken.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Meta;
use super::export_to::{ExportTo, check_export_to};
use super::host::{HostPattern, hint, is_host};
use super::meta::{is_dns_label, is_dns_name};
use super::port_number::PortSelector;
use crate::matching::texts::TextKey;
use crate::policy::path::normalize;
use crate::yaml::{At, Document, YamlError, quoted};

/// The word by which `gateways` means every sidecar.
const MESH: &str = "mesh";

/// One checked `VirtualService`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualService {
    /// Name, namespace, place.
    pub meta: Meta,
    /// `spec.hosts`; at least one.
    pub hosts: Vec<HostPattern>,
    /// `spec.gateways` but `mesh`, as `(namespace, name)`.
    pub gateways: Vec<(String, String)>,
    /// `spec.http` in its order.
    pub routes: Vec<HttpRoute>,
    /// `spec.exportTo`: the namespaces of the gateways that see it.
    pub export_to: ExportTo,
}

/// One `spec.http` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRoute {
    /// `match[].uri`: one of these; none is every path.
    pub paths: Vec<PathMatch>,
    /// The service that it leads to.
    pub destination: RouteDestination,
    /// `file:line` of the destination.
    pub place: String,
}

/// `uri` of a match. Compared with paths in their one spelling, without query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// `exact`: the whole path.
    Exact(String),
    /// `prefix`: how the path begins, text by text, as in Istio: `/api` is the beginning of `/apis` too.
    Prefix(String),
}

/// `route[].destination`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteDestination {
    /// A host of the registry, lower-case; a short name is one of the `VirtualService`'s namespace.
    pub host: String,
    /// The service's port; absent where it has one only.
    pub port: Option<u16>,
    /// A subset of the service's `DestinationRule`.
    pub subset: Option<String>,
}

impl PathMatch {
    /// As it is looked up.
    pub(crate) fn key(&self) -> TextKey<'_> {
        match self {
            Self::Exact(whole) => TextKey::Exact(whole.as_bytes().into()),
            Self::Prefix(start) => TextKey::Beginning(start.as_bytes().into()),
        }
    }

    /// Whether a path in its one spelling, without query, matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(whole) => path == whole,
            Self::Prefix(start) => path.starts_with(start.as_str()),
        }
    }
}

/// `spec` as written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    hosts: At<Vec<At<String>>>,
    gateways: Option<Vec<At<String>>>,
    http: Option<At<Vec<At<WrittenRoute>>>>,
    tls: Option<At<IgnoredAny>>,
    tcp: Option<At<IgnoredAny>>,
    #[serde(default)]
    export_to: Vec<At<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRoute {
    /// Told nowhere.
    #[serde(rename = "name")]
    _name: Option<IgnoredAny>,
    #[serde(rename = "match", default)]
    matches: Vec<WrittenMatch>,
    route: Option<At<Vec<At<WrittenDestination>>>>,
    redirect: Option<At<IgnoredAny>>,
    direct_response: Option<At<IgnoredAny>>,
    delegate: Option<At<IgnoredAny>>,
    rewrite: Option<At<IgnoredAny>>,
    timeout: Option<At<IgnoredAny>>,
    retries: Option<At<IgnoredAny>>,
    fault: Option<At<IgnoredAny>>,
    mirror: Option<At<IgnoredAny>>,
    mirrors: Option<At<IgnoredAny>>,
    mirror_percentage: Option<At<IgnoredAny>>,
    cors_policy: Option<At<IgnoredAny>>,
    headers: Option<At<IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenMatch {
    /// Told nowhere.
    #[serde(rename = "name")]
    _name: Option<IgnoredAny>,
    uri: Option<At<WrittenUri>>,
    scheme: Option<At<IgnoredAny>>,
    method: Option<At<IgnoredAny>>,
    authority: Option<At<IgnoredAny>>,
    headers: Option<At<IgnoredAny>>,
    port: Option<At<IgnoredAny>>,
    source_labels: Option<At<IgnoredAny>>,
    gateways: Option<At<IgnoredAny>>,
    query_params: Option<At<IgnoredAny>>,
    ignore_uri_case: Option<At<bool>>,
    without_headers: Option<At<IgnoredAny>>,
    source_namespace: Option<At<IgnoredAny>>,
    stat_prefix: Option<At<IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenUri {
    exact: Option<At<String>>,
    prefix: Option<At<String>>,
    regex: Option<At<IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenDestination {
    destination: At<Destination>,
    /// Of one destination alone it says nothing.
    #[serde(rename = "weight")]
    _weight: Option<IgnoredAny>,
    headers: Option<At<IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Destination {
    host: At<String>,
    subset: Option<At<String>>,
    port: Option<PortSelector>,
}

/// Istio's validation as far as this version routes; everything else is refused.
pub(super) fn check(
    document: &Document<'_>,
    meta: Meta,
    spec: At<Spec>,
) -> Result<VirtualService, YamlError> {
    let place = spec.place();
    let Spec { hosts, gateways, http, tls, tcp, export_to } = spec.value;
    if let Some(other) = tls.as_ref().or(tcp.as_ref()) {
        return Err(document.error(other, "routes of `tls` and `tcp` are not supported; route by `http`"));
    }
    let hosts = check_hosts(document, &hosts)?;
    let Gateways { named, in_mesh } = check_gateways(document, &meta, gateways)?;
    let Some(http) = http.filter(|http| !http.value.is_empty()) else {
        return Err(document.error(&place, "expected `http` with at least one route"));
    };
    let mut routes = Vec::with_capacity(http.value.len());
    for route in &http.value {
        let checked = check_route(document, route)?;
        if in_mesh && !leads_where_it_goes(&checked, &hosts, &meta.namespace) {
            return Err(document.error(
                route,
                "sidecars do not route: for the mesh itself (`gateways` absent, or `mesh` among them) only a route to the host \
                 itself, without `match` and `subset`, is taken; name the Gateway in `gateways`, or call the other host",
            ));
        }
        routes.push(checked);
    }
    Ok(VirtualService {
        hosts,
        gateways: named,
        routes,
        export_to: check_export_to(document, export_to)?,
        meta,
    })
}

fn check_hosts(document: &Document<'_>, hosts: &At<Vec<At<String>>>) -> Result<Vec<HostPattern>, YamlError> {
    if hosts.value.is_empty() {
        return Err(document.error(hosts, "hosts is empty; name the hosts that are routed, or `*`"));
    }
    let check = |host: &At<String>| {
        HostPattern::parse(&host.value).ok_or_else(|| {
            let seen = quoted(&host.value);
            let hint = hint(&host.value);
            document.error(host, format!("expected a host name, one behind `*.`, or `*`, seen {seen}{hint}"))
        })
    };
    hosts.value.iter().map(check).collect()
}

/// What `gateways` names.
#[derive(Default)]
struct Gateways {
    named: Vec<(String, String)>,
    in_mesh: bool,
}

fn check_gateways(
    document: &Document<'_>,
    meta: &Meta,
    written: Option<Vec<At<String>>>,
) -> Result<Gateways, YamlError> {
    let mut gateways = Gateways::default();
    let written = written.unwrap_or_default();
    gateways.in_mesh = written.is_empty();
    for gateway in &written {
        if gateway.value == MESH {
            gateways.in_mesh = true;
            continue;
        }
        let (namespace, name) =
            gateway.value.split_once('/').unwrap_or((meta.namespace.as_str(), gateway.value.as_str()));
        if !is_dns_label(namespace) || !is_dns_name(name) {
            let seen = quoted(&gateway.value);
            let message = format!(
                "expected the name of a Gateway, with `namespace/` before it or without, seen {seen}"
            );
            return Err(document.error(gateway, message));
        }
        gateways.named.push((namespace.to_owned(), name.to_owned()));
    }
    Ok(gateways)
}

fn check_route(document: &Document<'_>, route: &At<WrittenRoute>) -> Result<HttpRoute, YamlError> {
    let written = &route.value;
    for (name, field) in [
        ("redirect", &written.redirect),
        ("directResponse", &written.direct_response),
        ("delegate", &written.delegate),
        ("rewrite", &written.rewrite),
        ("timeout", &written.timeout),
        ("retries", &written.retries),
        ("fault", &written.fault),
        ("mirror", &written.mirror),
        ("mirrors", &written.mirrors),
        ("mirrorPercentage", &written.mirror_percentage),
        ("corsPolicy", &written.cors_policy),
        ("headers", &written.headers),
    ] {
        refuse(document, name, field.as_ref())?;
    }
    let paths: Vec<Option<PathMatch>> =
        written.matches.iter().map(|matching| check_match(document, matching)).collect::<Result<_, _>>()?;
    let Some(to) = written.route.as_ref().filter(|to| !to.value.is_empty()) else {
        return Err(document.error(route, "expected `route` with a destination"));
    };
    if let [_, second, ..] = to.value.as_slice() {
        let message = "several destinations spread the load, which is not supported; keep one";
        return Err(document.error(second, message));
    }
    let Some(only) = to.value.first() else {
        return Err(document.error(to, "expected `route` with a destination"));
    };
    refuse(document, "headers", only.value.headers.as_ref())?;
    Ok(HttpRoute {
        // A match without a path takes every one, whatever the others say.
        paths: paths.into_iter().collect::<Option<_>>().unwrap_or_default(),
        destination: check_destination(document, &only.value.destination.value)?,
        place: document.place(&only.value.destination),
    })
}

fn refuse(document: &Document<'_>, name: &str, field: Option<&At<IgnoredAny>>) -> Result<(), YamlError> {
    match field {
        Some(field) => Err(document
            .error(field, format!("`{name}` is not supported: requests go on as they come; take it out"))),
        None => Ok(()),
    }
}

/// The path that a match asks for; `None` where it asks for none.
fn check_match(document: &Document<'_>, matching: &WrittenMatch) -> Result<Option<PathMatch>, YamlError> {
    for (name, field) in [
        ("scheme", &matching.scheme),
        ("method", &matching.method),
        ("authority", &matching.authority),
        ("headers", &matching.headers),
        ("port", &matching.port),
        ("sourceLabels", &matching.source_labels),
        ("gateways", &matching.gateways),
        ("queryParams", &matching.query_params),
        ("withoutHeaders", &matching.without_headers),
        ("sourceNamespace", &matching.source_namespace),
        ("statPrefix", &matching.stat_prefix),
    ] {
        if let Some(field) = field {
            return Err(
                document.error(field, format!("a match by `{name}` is not supported; match by `uri`"))
            );
        }
    }
    if let Some(ignore) = matching.ignore_uri_case.as_ref().filter(|ignore| ignore.value) {
        let message = "ignoreUriCase is not supported: paths are compared as they are; take it out";
        return Err(document.error(ignore, message));
    }
    let Some(uri) = &matching.uri else { return Ok(None) };
    match &uri.value {
        WrittenUri { exact: Some(path), prefix: None, regex: None } => {
            check_path(document, path)?;
            Ok(Some(PathMatch::Exact(path.value.clone())))
        }
        WrittenUri { exact: None, prefix: Some(start), regex: None } => {
            check_path(document, start)?;
            Ok(Some(PathMatch::Prefix(start.value.clone())))
        }
        WrittenUri { regex: Some(regex), .. } => {
            Err(document.error(regex, "regex is not supported; write `exact` or `prefix`"))
        }
        WrittenUri { exact: Some(_), .. } => {
            Err(document.error(uri, "expected either `exact` or `prefix`, seen both; write two matches"))
        }
        WrittenUri { .. } => Err(document.error(uri, "expected `exact` or `prefix`, seen neither")),
    }
}

/// What no request has, since paths are normalized before, would never match.
fn check_path(document: &Document<'_>, path: &At<String>) -> Result<(), YamlError> {
    let seen = quoted(&path.value);
    let message = match normalize(&path.value) {
        _ if path.value.contains('?') => format!("paths are matched without the query, seen {seen}"),
        Ok(normal) if normal.path() == path.value => return Ok(()),
        Ok(normal) => {
            format!(
                "no request has this path, since paths are normalized before: it would be {}, seen {seen}",
                quoted(normal.path())
            )
        }
        Err(refused) => format!("no request has this path: {refused}, seen {seen}"),
    };
    Err(document.error(path, message))
}

fn check_destination(
    document: &Document<'_>,
    destination: &Destination,
) -> Result<RouteDestination, YamlError> {
    let Destination { host, subset, port } = destination;
    if !is_host(&host.value) {
        let seen = quoted(&host.value);
        let message = format!("expected the host of a service, seen {seen}{}", hint(&host.value));
        return Err(document.error(host, message));
    }
    if let Some(subset) = subset.as_ref().filter(|subset| !is_dns_label(&subset.value)) {
        let seen = quoted(&subset.value);
        return Err(document.error(subset, format!("expected the name of a subset, seen {seen}")));
    }
    Ok(RouteDestination {
        host: host.value.to_ascii_lowercase(),
        port: port.as_ref().map(|port| port.number.0),
        subset: subset.as_ref().map(|subset| subset.value.clone()),
    })
}

/// Whether a route changes nothing for a client that calls the host directly.
fn leads_where_it_goes(route: &HttpRoute, hosts: &[HostPattern], namespace: &str) -> bool {
    let RouteDestination { host, subset, .. } = &route.destination;
    let full = |host: &str| {
        if host.contains('.') { host.to_owned() } else { format!("{host}.{namespace}.svc.cluster.local") }
    };
    let is_host = |known: &HostPattern| matches!(known, HostPattern::Exact(name) if full(name) == full(host));
    route.paths.is_empty() && subset.is_none() && hosts.iter().all(is_host)
}
