//! Paths of requests in one spelling, so that the judge and the app cannot read one path in two ways.
//!
//! [`normalize`] gives the form that policies are matched with and that is sent on to the app. It does what Istio
//! calls `DECODE_AND_MERGE_SLASHES`, the strictest of its path normalizations (Istio's default, `BASE`, leaves `//` and
//! `%2F` to the app: CVE-2021-31920), and refuses what two readers might understand differently:
//!
//! | written | becomes |
//! |---|---|
//! | `%2F` `%5C` `\` | `/` |
//! | `%41` and all of RFC 3986's unreserved characters | the character |
//! | `%3a` | `%3A` |
//! | a character that RFC 3986 does not allow in a path | its `%XX` |
//! | `//` | `/` |
//! | `/./` `/a/../` | `/`; never above the root |
//! | `..;x`, `%00`, a `%` without two hex digits, `#`, control characters, spaces | refused |
//!
//! A `%` is decoded once and never anew. Path parameters (`/a;x=1`) belong to their segment, as in Envoy. The query is
//! sent on as it came and is no part of what `paths` are matched with.

mod template;

pub use template::Template;

/// A path in its one spelling, with its query.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Normalized {
    text: String,
    path_length: usize,
}

/// Why a request cannot be judged. The client gets 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// It does not begin with `/`.
    #[error("the path does not begin with `/`")]
    NoPath,
    /// `#`: a request target has none (RFC 9112, 3.2).
    #[error("the path has a fragment (`#`), which a request never has")]
    Fragment,
    /// A control character or a space.
    #[error("the path has a control character or a space")]
    Control,
    /// `%` without two hexadecimal digits behind it.
    #[error("the path has a `%` without two hexadecimal digits behind it")]
    Escape,
    /// `%00`.
    #[error("the path has an encoded NUL (`%00`)")]
    Nul,
    /// `/..;/`: some servers drop the parameter and go up.
    #[error("the path has a dot segment with parameters (`..;`), which servers understand differently")]
    DotParameters,
    /// A host that is none.
    #[error("the host is no name or address, with a port or without")]
    Host,
    /// No host at all.
    #[error("the request names no host")]
    NoHost,
    /// Several hosts that differ.
    #[error("the request names several hosts")]
    Hosts,
    /// A method with lower-case letters: methods are case-sensitive, and not every app knows.
    #[error("the method has lower-case letters")]
    Method,
}

impl Normalized {
    /// The path alone: what `paths` are matched with. `*` for a request to the server as a whole.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(..self.path_length).unwrap_or(&self.text)
    }

    /// Path and query: what is sent on.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        &self.text
    }

    /// What stands behind the first `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.text.get(self.path_length + 1..)
    }
}

/// Brings path and query of a request into their one spelling. `*` (of OPTIONS; RFC 9112, 3.2.4) stays.
///
/// # Errors
/// Where the path has more than one reading.
pub fn normalize(path_and_query: &str) -> Result<Normalized, Refused> {
    if path_and_query.contains('#') {
        return Err(Refused::Fragment);
    }
    if path_and_query.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(Refused::Control);
    }
    if path_and_query == "*" {
        return Ok(Normalized { text: path_and_query.to_owned(), path_length: 1 });
    }
    if !path_and_query.starts_with('/') {
        return Err(Refused::NoPath);
    }
    let (path, query) = match path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path_and_query, None),
    };
    let mut text = without_dot_segments(&decoded(path)?)?;
    let path_length = text.len();
    if let Some(query) = query {
        text.push('?');
        text.push_str(query);
    }
    Ok(Normalized { text, path_length })
}

/// Decodes what is decoded, encodes what must be encoded; backslashes are slashes.
fn decoded(path: &str) -> Result<String, Refused> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else { return Err(Refused::Escape) };
                match u8::try_from(high * 16 + low).unwrap_or_default() {
                    0 => return Err(Refused::Nul),
                    b'/' | b'\\' => decoded.push('/'),
                    byte if is_unreserved(byte) => decoded.push(char::from(byte)),
                    byte => push_encoded(&mut decoded, byte),
                }
            }
            b'/' | b'\\' => decoded.push('/'),
            byte if is_unreserved(byte) || SUB_DELIMITERS.contains(&byte) => decoded.push(char::from(byte)),
            byte => push_encoded(&mut decoded, byte),
        }
    }
    Ok(decoded)
}

/// Merges slashes and goes the way that `.` and `..` describe (RFC 3986, 5.2.4).
fn without_dot_segments(path: &str) -> Result<String, Refused> {
    let mut kept: Vec<&str> = Vec::new();
    let mut is_folder = false;
    for segment in path.split('/') {
        is_folder = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            _ if is_dot_segment_with_parameters(segment) => return Err(Refused::DotParameters),
            _ => kept.push(segment),
        }
    }
    let mut text = String::with_capacity(path.len());
    for segment in &kept {
        text.push('/');
        text.push_str(segment);
    }
    if is_folder {
        text.push('/');
    }
    Ok(text)
}

fn is_dot_segment_with_parameters(segment: &str) -> bool {
    let behind_dots = segment.trim_start_matches('.');
    let dots = segment.len() - behind_dots.len();
    matches!(dots, 1 | 2) && (behind_dots.starts_with(';') || behind_dots.starts_with("%3B"))
}

/// `sub-delims`, `:` and `@`: with the unreserved characters, all that a segment may have (RFC 3986, `pchar`).
const SUB_DELIMITERS: &[u8] = b"!$&'()*+,;=:@";

/// RFC 3986, 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn push_encoded(text: &mut String, byte: u8) {
    text.push('%');
    for digit in [byte >> 4, byte & 0xf] {
        text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0').to_ascii_uppercase());
    }
}

#[cfg(test)]
mod tests;
