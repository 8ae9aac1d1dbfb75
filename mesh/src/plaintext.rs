//! What plaintext looks like by its first bytes, for people: `GET /`, `SSH`. A guess that nothing is decided by.
//!
//! Of a request only the method and the path are told: a query may hold a secret, and so may an absolute target
//! (RFC 9112 3.2.2).

/// Methods of HTTP (RFC 9110 9.3, RFC 5789).
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
/// Of a path, enough to know it.
const LONGEST_PATH: usize = 64;
/// The codes in PostgreSQL's first message: version 3.0, and the wish for TLS (PostgreSQL documentation, 54.7).
const POSTGRES: [(u32, &str); 2] = [(196_608, "PostgreSQL"), (80_877_103, "PostgreSQL, asking for TLS")];

/// What a client speaks that begins so, where that is plain to see.
#[must_use]
pub fn looks_like(bytes: &[u8]) -> Option<String> {
    const BEGINNINGS: [(&[u8], &str); 5] = [
        (b"PRI * HTTP/2.0", "HTTP/2"),
        (b"SSH-", "SSH"),
        (b"PROXY ", "the PROXY protocol"),
        (b"\r\n\r\n\0\r\nQUIT\n", "the PROXY protocol"),
        (b"EHLO ", "SMTP"),
    ];
    let begins = BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning));
    begins
        .map(|(_, name)| (*name).to_owned())
        .or_else(|| http(bytes))
        .or_else(|| postgres(bytes).map(str::to_owned))
        .or_else(|| redis(bytes).map(str::to_owned))
}

fn http(bytes: &[u8]) -> Option<String> {
    let method = METHODS.iter().find(|method| {
        bytes.strip_prefix(method.as_bytes()).is_some_and(|rest| rest.first() == Some(&b' '))
    })?;
    let target = bytes.get(method.len() + 1..).unwrap_or_default();
    let path: String = target
        .iter()
        .take_while(|byte| byte.is_ascii_graphic() && **byte != b'?' && **byte != b'#')
        .take(LONGEST_PATH)
        .map(|byte| char::from(*byte))
        .collect();
    Some(if path.starts_with('/') { format!("{method} {path}") } else { format!("{method} of HTTP") })
}

fn postgres(bytes: &[u8]) -> Option<&'static str> {
    let code = u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?);
    POSTGRES.iter().find(|(known, _)| *known == code).map(|(_, name)| *name)
}

/// An array of bulk strings, as every command is sent.
fn redis(bytes: &[u8]) -> Option<&'static str> {
    let (count, rest) = bytes.strip_prefix(b"*")?.split_first()?;
    (count.is_ascii_digit() && rest.starts_with(b"\r\n$")).then_some("Redis")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(b"GET / HTTP/1.1\r\nHost: a\r\n", Some("GET /"))]
    #[case(b"POST /login?password=secret HTTP/1.1\r\n", Some("POST /login"))]
    #[case(b"GET http://user:secret@host/ HTTP/1.1\r\n", Some("GET of HTTP"))]
    #[case(b"CONNECT host:443 HTTP/1.1\r\n", Some("CONNECT of HTTP"))]
    #[case(b"GET /a", Some("GET /a"))]
    #[case(b"GETTING /", None)]
    #[case(b"get / HTTP/1.1\r\n", None)]
    #[case(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some("HTTP/2"))]
    #[case(b"SSH-2.0-OpenSSH_9.2\r\n", Some("SSH"))]
    #[case(b"\0\0\0\x08\x04\xd2\x16\x2f", Some("PostgreSQL, asking for TLS"))]
    #[case(b"\0\0\0\x20\0\x03\0\0user\0x", Some("PostgreSQL"))]
    #[case(b"*1\r\n$4\r\nPING\r\n", Some("Redis"))]
    #[case(b"hello", None)]
    #[case(b"", None)]
    fn plaintext_is_told_by_its_beginning(#[case] bytes: &[u8], #[case] told: Option<&str>) {
        assert_eq!(looks_like(bytes).as_deref(), told);
    }

    proptest! {
        /// Whatever a stranger sends, what is told of it is short and acts on no terminal.
        #[test]
        fn what_is_told_is_short_and_harmless(path in proptest::collection::vec(any::<u8>(), 0..200)) {
            for bytes in [path.clone(), [b"GET /".as_slice(), &path].concat()] {
                let told = looks_like(&bytes).unwrap_or_default();
                prop_assert!(told.len() < 80 && told.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{told:?}");
            }
        }
    }
}
