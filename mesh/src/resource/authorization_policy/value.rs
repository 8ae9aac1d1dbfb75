//! The single values of a policy: what each kind of field takes, and in which words it refuses the rest.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::{Match, PathPattern, ServiceAccount, written};
use crate::policy::path::{Template, normalize};
use crate::policy::request::{Host, check_method};
use crate::resource::{Meta, Pattern};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::yaml::{At, Document, YamlError, quoted};

/// Istio's limit of a `serviceAccounts`.
const MAX_SERVICE_ACCOUNTS: usize = 16;
/// Istio's limit of one of them, in bytes.
const MAX_SERVICE_ACCOUNT_LENGTH: usize = 320;

/// Reads the values of a document's fields.
pub(super) struct Values<'d>(pub(super) &'d Document<'d>);

impl Values<'_> {
    /// The values of a field and of its `not…` twin.
    pub(super) fn both<T>(
        &self,
        values: &written::Values,
        not_values: &written::Values,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Match<T>, YamlError> {
        Ok(Match { values: self.each(values, &parse)?, not_values: self.each(not_values, &parse)? })
    }

    /// Service accounts; those without a namespace are of the policy's.
    pub(super) fn service_accounts(
        &self,
        meta: &Meta,
        values: &written::Values,
    ) -> Result<Vec<ServiceAccount>, YamlError> {
        if let Some(beyond) = values.get(MAX_SERVICE_ACCOUNTS) {
            let message = format!(
                "at most {MAX_SERVICE_ACCOUNTS} service accounts in one list, seen {}; write a second source",
                values.len()
            );
            return Err(self.0.error(beyond, message));
        }
        self.each(values, |text| service_account(&meta.namespace, text))
    }

    fn each<T>(
        &self,
        values: &written::Values,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, YamlError> {
        let parse = |at: &At<String>| parse(&at.value).map_err(|fault| self.0.error(at, fault));
        values.iter().map(parse).collect()
    }
}

pub(super) fn principal(text: &str) -> Result<Pattern, String> {
    let without_scheme = text.split_once("://").filter(|(scheme, _)| scheme.eq_ignore_ascii_case("spiffe"));
    if let Some((_, principal)) = without_scheme {
        return Err(format!(
            "a principal is written without its scheme: write {} instead of {}",
            quoted(principal),
            quoted(text)
        ));
    }
    let pattern = Pattern::parse(text)?;
    if let Pattern::Exact(principal) = &pattern {
        SpiffeId::of_principal(principal).map_err(|_| {
            format!(
                "expected `<trust domain>/ns/<namespace>/sa/<service account>`, the trust domain in lower case, seen {}",
                quoted(text)
            )
        })?;
    }
    Ok(pattern)
}

pub(super) fn namespace(text: &str) -> Result<Pattern, String> {
    let pattern = Pattern::parse(text)?;
    if pattern.literal().bytes().all(is_of_segment) {
        return Ok(pattern);
    }
    Err(format!("expected the name of a namespace, seen {}", quoted(text)))
}

pub(super) fn trust_domain(text: &str) -> Result<Pattern, String> {
    let pattern = Pattern::parse(text)?;
    match pattern.literal() {
        "" => Ok(pattern),
        // A part of a trust domain has the characters of a whole one.
        name => match name.parse::<TrustDomain>() {
            Ok(_) => Ok(pattern),
            Err(_) => Err(format!(
                "expected a trust domain, in lower case and without a path, seen {}",
                quoted(text)
            )),
        },
    }
}

fn service_account(own_namespace: &str, text: &str) -> Result<ServiceAccount, String> {
    let fault =
        || format!("expected `<namespace>/<service account>` or `<service account>`, seen {}", quoted(text));
    if text.contains('*') {
        return Err(format!(
            "a service account has no `*`, seen {}; use `principals` for that",
            quoted(text)
        ));
    }
    let (namespace, name) = text.split_once('/').unwrap_or((own_namespace, text));
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(is_of_segment);
    if text.len() > MAX_SERVICE_ACCOUNT_LENGTH || !is_name(namespace) || !is_name(name) {
        return Err(fault());
    }
    Ok(ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// An address or a range; IPv4 that is written as IPv6 (`::ffff:…`) is IPv4, as in the facts.
pub(super) fn ip_block(text: &str) -> Result<IpNet, String> {
    let single = text.parse::<IpAddr>().map(IpNet::from);
    let block = single.or_else(|_| text.parse::<IpNet>()).map_err(|_| {
        format!("expected an IP address or a range such as `10.1.0.0/16`, seen {}", quoted(text))
    })?;
    let mapped = match (block, block.addr().to_canonical()) {
        (IpNet::V6(range), IpAddr::V4(address)) => {
            range.prefix_len().checked_sub(96).and_then(|length| Ipv4Net::new(address, length).ok())
        }
        _ => None,
    };
    Ok(mapped.map_or(block, IpNet::V4).trunc())
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|digits| digits.parse().ok())
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("a port is a number from 1 to 65535, seen {}", quoted(text)))
}

/// In lower case; one dot at the end is taken away, as it is from requests.
pub(super) fn host(text: &str) -> Result<Pattern, String> {
    let pattern = Pattern::parse(&text.to_ascii_lowercase())?;
    // What stands for the open part is a letter or digit that a host may have there.
    let probe = match &pattern {
        Pattern::Exact(host) => {
            return match Host::parse(host) {
                Ok(host) => Ok(Pattern::Exact(host.to_string())),
                Err(_) => Err(not_a_host(text)),
            };
        }
        Pattern::Prefix(start) => format!("{start}1"),
        Pattern::Suffix(end) => format!("a{end}"),
        Pattern::Present => return Ok(pattern),
    };
    match Host::parse(&probe) {
        Ok(host) if host.as_str() == probe => Ok(pattern),
        _ => Err(not_a_host(text)),
    }
}

fn not_a_host(text: &str) -> String {
    format!(
        "expected a host, with a port or without, such as `api.example.com` or `*.example.com`, seen {}",
        quoted(text)
    )
}

pub(super) fn method(text: &str) -> Result<Pattern, String> {
    let pattern = Pattern::parse(text)?;
    if check_method(text).is_err() {
        let upper = text.to_ascii_uppercase();
        return Err(format!("methods are upper-case: write {} instead of {}", quoted(&upper), quoted(text)));
    }
    Ok(pattern)
}

/// A value that the path of no request has, since all are normalized, is refused.
pub(super) fn path(text: &str) -> Result<PathPattern, String> {
    if Template::is_meant(text) {
        let template = Template::parse(text)?;
        check_normal(text, &text.replace("{**}", "x").replace("{*}", "x"))?;
        return Ok(PathPattern::Template(template));
    }
    if text.contains(['{', '}']) {
        return Err(format!(
            "`{{` and `}}` stand in a path as `{{*}}` (one segment) or `{{**}}` (the rest) only, seen {}",
            quoted(text)
        ));
    }
    let pattern = Pattern::parse(text).map_err(|fault| {
        if text.contains("/*/") { format!("{fault}; for one segment write `{{*}}`") } else { fault }
    })?;
    match &pattern {
        Pattern::Exact(path) => check_normal(text, path)?,
        Pattern::Prefix(start) => check_normal(text, &format!("{start}x"))?,
        Pattern::Suffix(end) => check_normal(text, &format!("/x{end}"))?,
        Pattern::Present => {}
    }
    Ok(PathPattern::Text(pattern))
}

/// `example` is a path that the value would match.
fn check_normal(text: &str, example: &str) -> Result<(), String> {
    let seen = quoted(text);
    if !example.starts_with('/') {
        return Err(format!("a path begins with `/`, seen {seen}"));
    }
    if example.contains('?') {
        return Err(format!("paths are matched without the query, seen {seen}"));
    }
    match normalize(example) {
        Ok(normal) if normal.path() == example => Ok(()),
        Ok(normal) => Err(format!(
            "no request has this path, since paths are normalized before: {} would be {}, seen {seen}",
            quoted(example),
            quoted(normal.path())
        )),
        Err(refused) => Err(format!("no request has this path: {refused}, seen {seen}")),
    }
}

/// In lower case, as names are compared.
pub(super) fn sni(text: &str) -> Result<Pattern, String> {
    Pattern::parse(&text.to_ascii_lowercase())
}

/// A character of a SPIFFE ID's path segment (SPIFFE-ID 2.2).
fn is_of_segment(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}
