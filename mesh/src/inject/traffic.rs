//! Istio's annotations about capture, as arguments of `pillion-iptables apply`.

use ipnet::IpNet;

/// An annotation, the flag, and what its value lists.
const FLAGS: [(&str, &str, Lists); 6] = [
    ("traffic.sidecar.istio.io/includeInboundPorts", "-b", Lists::Ports),
    ("traffic.sidecar.istio.io/excludeInboundPorts", "-d", Lists::Ports),
    ("traffic.sidecar.istio.io/includeOutboundIPRanges", "-i", Lists::Ranges),
    ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "-x", Lists::Ranges),
    ("traffic.sidecar.istio.io/includeOutboundPorts", "-q", Lists::Ports),
    ("traffic.sidecar.istio.io/excludeOutboundPorts", "-o", Lists::Ports),
];
/// Image of the sidecar of one workload.
pub(super) const PROXY_IMAGE: &str = "sidecar.istio.io/proxyImage";
/// CPU and memory that the sidecar asks for, and may have: Kubernetes only.
pub(super) const RESOURCES: [(&str, &str, &str); 4] = [
    ("sidecar.istio.io/proxyCPU", "requests", "cpu"),
    ("sidecar.istio.io/proxyMemory", "requests", "memory"),
    ("sidecar.istio.io/proxyCPULimit", "limits", "cpu"),
    ("sidecar.istio.io/proxyMemoryLimit", "limits", "memory"),
];
/// Annotations that ask for what is so anyway, or that others write.
const SILENT: [&str; 4] =
    [super::OPT_OUT, "sidecar.istio.io/status", "istio.io/rev", "security.istio.io/tlsMode"];
const MODE: &str = "sidecar.istio.io/interceptionMode";

#[derive(Clone, Copy)]
enum Lists {
    Ports,
    Ranges,
}

/// The arguments that the annotations come to, in a fixed order.
///
/// # Errors
/// When a value is none, or asks for an interception that is not injected.
pub(super) fn arguments(annotations: &[(String, String)]) -> Result<Vec<String>, String> {
    let value = |name: &str| annotations.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    if let Some(mode) = value(MODE).filter(|mode| *mode != "REDIRECT") {
        return Err(format!(
            "{MODE}: expected REDIRECT, seen `{mode}`; what needs TPROXY is written by hand, docs/reference/settings.md"
        ));
    }
    let mut arguments = vec!["apply".to_owned()];
    for (name, flag, lists) in FLAGS {
        let Some(value) = value(name) else { continue };
        for part in value.split(',').map(str::trim).filter(|part| !matches!(*part, "" | "*")) {
            let (is_one, expected) = match lists {
                Lists::Ports => (part.parse::<u16>().is_ok_and(|port| port != 0), "ports, such as 8080,9090"),
                Lists::Ranges => (part.parse::<IpNet>().is_ok(), "ranges of addresses, such as 10.0.0.0/8"),
            };
            if !is_one {
                return Err(format!("{name}: expected {expected}, or `*`, seen `{part}`"));
            }
        }
        arguments.extend([flag.to_owned(), value.replace(' ', "")]);
    }
    Ok(arguments)
}

/// Names of Istio's annotations that nothing here reads.
pub(super) fn unread(annotations: &[(String, String)]) -> Vec<&str> {
    let is_read = |name: &str| {
        SILENT.contains(&name)
            || [MODE, PROXY_IMAGE].contains(&name)
            || FLAGS.iter().any(|(known, _, _)| *known == name)
            || RESOURCES.iter().any(|(known, _, _)| *known == name)
    };
    let of_istio = |name: &str| name.split('/').next().is_some_and(|prefix| prefix.ends_with("istio.io"));
    annotations
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| of_istio(name) && !is_read(name))
        .collect()
}
