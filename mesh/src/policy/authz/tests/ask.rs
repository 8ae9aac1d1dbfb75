//! A connection or request in one line: who asks (a principal, or `plaintext`), then in any order `from=`, `remote=`,
//! `to=` (address or port), `sni=`, and for HTTP a method, a host with a path, and headers as `name:value`.
//!
//! `cluster.local/ns/foo/sa/web to=8080 GET orders/api/v1/orders?all x-team:a`

use std::net::{IpAddr, SocketAddr};

use super::super::*;
use crate::policy::path::{Normalized, Refused, normalize};
use crate::policy::request::{Host, check_method};
use crate::resource::Resources;
use crate::spiffe::SpiffeId;

/// What [`Facts`] borrow from.
#[derive(Debug)]
pub(super) struct Ask {
    peer: Option<SpiffeId>,
    source: IpAddr,
    remote: IpAddr,
    destination: SocketAddr,
    sni: Option<String>,
    http: Option<(String, Host, Normalized)>,
    headers: Vec<(String, String)>,
}

impl Ask {
    pub(super) fn facts(&self) -> Facts<'_> {
        Facts {
            peer: self.peer.as_ref(),
            source: self.source,
            remote: self.remote,
            destination: self.destination,
            sni: self.sni.as_deref(),
            http: self.http.as_ref().map(|(method, host, path)| HttpFacts {
                method,
                host,
                path,
                headers: &self.headers,
            }),
        }
    }
}

/// Reads an ask as the proxy reads a request.
pub(super) fn ask(line: &str) -> Result<Ask, Refused> {
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let peer = words.next().unwrap();
    let mut ask = Ask {
        peer: (peer != "plaintext").then(|| SpiffeId::of_principal(peer).unwrap()),
        source: [10, 0, 0, 1].into(),
        remote: [10, 0, 0, 1].into(),
        destination: "10.0.0.9:8080".parse().unwrap(),
        sni: None,
        http: None,
        headers: Vec::new(),
    };
    while let Some(word) = words.next() {
        if let Some(address) = word.strip_prefix("from=") {
            ask.source = address.parse().unwrap();
            ask.remote = ask.source;
        } else if let Some(address) = word.strip_prefix("remote=") {
            ask.remote = address.parse().unwrap();
        } else if let Some(to) = word.strip_prefix("to=") {
            let port = || SocketAddr::new(ask.destination.ip(), to.parse().unwrap());
            ask.destination = to.parse().unwrap_or_else(|_| port());
        } else if let Some(sni) = word.strip_prefix("sni=") {
            ask.sni = Some(sni.to_owned());
        } else if word.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-') {
            check_method(word)?;
            let url = words.next().unwrap();
            let (host, path) = url.split_at(url.find(['/', '\\', '%']).unwrap());
            ask.http = Some((word.to_owned(), Host::parse(host)?, normalize(path)?));
        } else {
            let (name, value) = word.split_once(':').unwrap_or_else(|| panic!("{word} in {line}"));
            ask.headers.push((name.to_owned(), value.to_owned()));
        }
    }
    Ok(ask)
}

/// The policies of a text for a workload `namespace/service-account` with labels `name=value`.
pub(super) fn policies(text: &str, workload: &str, aliases: &[&str]) -> Policies {
    let mut resources = Resources::default();
    resources.read("case.yaml", text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let aliases: Vec<TrustDomain> = aliases.iter().map(|alias| alias.parse().unwrap()).collect();
    Policies::build(&resources.authorization_policies, "istio-system", &self::workload(workload), &aliases)
}

pub(super) fn workload(text: &str) -> Workload {
    let mut words = text.split(' ');
    let (namespace, service_account) = words.next().unwrap().split_once('/').unwrap();
    let mut trust_domain = "cluster.local";
    let mut labels = crate::workload::Labels::new();
    for word in words {
        match word.split_once('=').unwrap() {
            ("trustDomain", name) => trust_domain = name,
            (name, value) => {
                labels.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    Workload {
        name: service_account.to_owned(),
        trust_domain: trust_domain.parse().unwrap(),
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        labels,
    }
}

/// A policy of namespace foo with one rule, or with the rules of a list.
pub(super) fn policy(action: &str, rule: &str) -> String {
    let rules = if rule.starts_with('[') { rule.to_owned() } else { format!("[{rule}]") };
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {}, namespace: foo}}\n\
         spec: {{action: {action}, rules: {rules}}}\n---\n",
        action.to_lowercase()
    )
}

/// Whether one policy, of which nothing else is beside, lets an ask through. Asks for explanation and decision, which
/// must agree.
pub(super) fn allows(policies: &Policies, line: &str) -> bool {
    let ask = ask(line).unwrap();
    let verdict = policies.authorize(&ask.facts());
    assert_eq!(verdict, policies.explain(&ask.facts()).verdict, "{line}");
    verdict.outcome.is_ok()
}
