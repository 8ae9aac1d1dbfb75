//! Host names as written in a resource.

use std::net::IpAddr;

/// A DNS name of at most 253 bytes: labels of 1 to 63 letters, digits, `-` and `_` (which names of docker-compose
/// services have); no address.
pub(super) fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.parse::<IpAddr>().is_err() && text.split('.').all(is_label)
}

/// A host, or `*.` before one.
pub(super) fn is_host_or_wildcard(text: &str) -> bool {
    is_host(text.strip_prefix("*.").unwrap_or(text))
}
