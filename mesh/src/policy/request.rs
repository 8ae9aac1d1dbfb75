//! What a request says of itself, in one spelling: its target, its host, its method. Paths are [`super::path`]'s.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

use super::path::Refused;

/// The host that a request is for (RFC 9110, 7.2): in lower case, without the dot at its end, which names the same
/// host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    text: String,
    name_length: usize,
    port: Option<u16>,
}

impl Host {
    /// `host[:port]`: a name, an IPv4 address, or an IPv6 address in brackets.
    ///
    /// # Errors
    /// For all else, user information (`user@`) among it.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let (name, port) = if let Some(inner) = text.strip_prefix('[') {
            let (address, port) = inner.split_once(']').ok_or(Refused::Host)?;
            let address: Ipv6Addr = address.parse().map_err(|_| Refused::Host)?;
            (format!("[{address}]"), port.strip_prefix(':').or_else(|| port.is_empty().then_some("")))
        } else {
            let (name, port) = text.split_once(':').unwrap_or((text, ""));
            let name = name.strip_suffix('.').unwrap_or(name);
            (Some(name).filter(|name| is_name(name)).ok_or(Refused::Host)?.to_ascii_lowercase(), Some(port))
        };
        let port = match port.ok_or(Refused::Host)? {
            "" => None,
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_| Refused::Host)?)
            }
            _ => return Err(Refused::Host),
        };
        let name_length = name.len();
        let text = port.map_or_else(|| name.clone(), |port: u16| format!("{name}:{port}"));
        Ok(Self { text, name_length, port })
    }

    /// The name or address alone.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text.get(..self.name_length).unwrap_or(&self.text)
    }

    /// The port, where the client named one. It says nothing of the port that the connection came to.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Name and port: what is sent on.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Labels of letters, digits, `-` and `_` (which names of docker-compose services have).
fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// The one host of a request. `authority` is that of an absolute target or of `:authority`, `fields` are all its `Host`
/// lines. All must name the same host: RFC 9112, 3.2 and RFC 9113, 8.3.1 would have one go over the other, and an app
/// may read the other.
///
/// # Errors
/// When there is none, one is none, or they differ.
pub fn host<'a>(
    authority: Option<&'a str>,
    fields: impl IntoIterator<Item = &'a str>,
) -> Result<Host, Refused> {
    let mut fields = fields.into_iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(Refused::Hosts);
    }
    let authority = authority.map(Host::parse).transpose()?;
    let field = field.map(Host::parse).transpose()?;
    match (authority, field) {
        (Some(authority), Some(field)) if authority != field => Err(Refused::Hosts),
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) => Err(Refused::NoHost),
    }
}

/// Cuts a request target into authority, where it is in absolute form (RFC 9112, 3.2.2), and path with query. The
/// authority is for [`host`], the path for [`super::path::normalize`].
#[must_use]
pub fn split_target(target: &str) -> (Option<&str>, Cow<'_, str>) {
    let behind_scheme = ["http://", "https://"].into_iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    });
    let Some(rest) = behind_scheme else { return (None, Cow::Borrowed(target)) };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
    let path = if path.starts_with('/') { Cow::Borrowed(path) } else { Cow::Owned(format!("/{path}")) };
    (Some(authority), path)
}

/// Methods are case-sensitive (RFC 9110, 9.1), all registered ones are upper-case, and an app that takes `delete` for
/// `DELETE` would be reached past a policy that denies `DELETE`.
///
/// # Errors
/// For a method with lower-case letters.
pub fn check_method(method: &str) -> Result<(), Refused> {
    if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(Refused::Method);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
