//! Reads a TLS ClientHello from the first bytes of a connection, however TCP and the record layer cut it
//! (RFC 8446 4.1.2 and 5.1; RFC 5246 7.4.1.2 for TLS 1.2).
//!
//! A client that speaks TLS opens with one handshake message, and the message travels in records:
//!
//! ```text
//! record    16  03 01  length(2)  fragment          one or more; 16 = handshake, 03 xx = TLS
//! message   01  length(3)  body                     the fragments put together; 01 = ClientHello
//! body      version(2)  random(32)  session id<1>  cipher suites<2>  compression<1>  extensions<2>
//! extension type(2)  data<2>                        server name, ALPN, supported versions, groups, key shares, …
//! ```
//!
//! `(n)` is a field of n bytes, `<n>` a list behind a length of n bytes. A record may end anywhere in the message, even
//! within its length, and a TCP segment may end anywhere in a record.
//!
//! Nothing here negotiates or judges an offer: that is the TLS library's work, on the same bytes. Where a length
//! contradicts another or a list breaks its standard, the bytes are no hello, so this reader never accepts an ALPN or
//! a server name that the TLS library would read differently. Groups and signature algorithms are only told: where
//! their list is broken it counts as empty, and decides nothing.

pub mod names;

use std::collections::HashSet;

/// The most bytes of a connection that are looked at, record headers included. A hello that does not end within them
/// stays [`Sniff::NeedMore`].
pub const MAX_BYTES: usize = 64 * 1024;

/// The ALPN protocols that mark the mesh's own TLS (Istio's).
pub const MESH_ALPN: [&[u8]; 5] =
    [b"istio", b"istio-peer-exchange", b"istio-http/1.0", b"istio-http/1.1", b"istio-h2"];

/// What the bytes so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sniff {
    /// They begin a ClientHello, as far as they go.
    ///
    /// A hello too large for the caller ends here too, and never in [`Sniff::NotTls`], which would let it pass for
    /// plaintext: the caller refuses it as soon as [`Sniffer::least_length`], or what it has read, reaches its limit.
    NeedMore,
    /// They cannot become one, whatever follows.
    NotTls,
    /// A whole ClientHello. What follows it was not looked at.
    Tls(ClientHello),
}

/// What a client offers. Lists keep the client's order; GREASE values (RFC 8701) are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// Server name (RFC 6066 3), if one of visible ASCII was sent.
    pub sni: Option<String>,
    /// ALPN protocols (RFC 7301), byte for byte.
    pub alpn: Vec<Vec<u8>>,
    /// Protocol versions: `supported_versions` (RFC 8446 4.2.1), else the legacy version.
    pub versions: Vec<u16>,
    /// Cipher suites.
    pub cipher_suites: Vec<u16>,
    /// Groups for key exchange: `supported_groups` (RFC 8446 4.2.7).
    pub groups: Vec<u16>,
    /// Signature algorithms: `signature_algorithms` (RFC 8446 4.2.3).
    pub signature_algorithms: Vec<u16>,
    /// Groups for which a key share was sent (RFC 8446 4.2.8).
    pub key_share_groups: Vec<u16>,
    /// Bytes that the hello took on the wire, record headers included.
    pub wire_length: usize,
}

impl ClientHello {
    /// Whether a protocol of [`MESH_ALPN`] is offered, compared octet by octet.
    #[must_use]
    pub fn is_mesh(&self) -> bool {
        self.alpn.iter().any(|offered| MESH_ALPN.contains(&offered.as_slice()))
    }
}

/// Reads the bytes received so far, from the first of the connection on. Pure: same bytes, same answer; a prefix of
/// a hello is `NeedMore`.
#[must_use]
pub fn sniff(bytes: &[u8]) -> Sniff {
    Sniffer::default().sniff(bytes)
}

/// [`sniff`] for bytes that arrive bit by bit: remembers how far it came, so that a client which drips a large hello
/// in tiny segments and records costs one look at each byte.
#[derive(Debug, Clone, Default)]
pub struct Sniffer {
    /// Bytes of the connection taken so far.
    taken: usize,
    /// What the current record still holds of its fragment.
    fragment_left: usize,
    /// The handshake message as far as its fragments came; never more than the message itself.
    message: Vec<u8>,
}

impl Sniffer {
    /// The answer for everything received so far, from the first byte of the connection on: the bytes of the last call
    /// and those that came since. The same answer as [`sniff`] gives.
    pub fn sniff(&mut self, received: &[u8]) -> Sniff {
        match self.read(received.get(..MAX_BYTES).unwrap_or(received)) {
            Ok(Some(hello)) => Sniff::Tls(hello),
            Ok(None) => Sniff::NeedMore,
            Err(NotAHello) => Sniff::NotTls,
        }
    }

    /// The fewest bytes, record headers included, that the hello takes on the wire, by what it has told so far of its
    /// own length. Up to 16 MiB: a client that announces more than the caller will read can be refused at once.
    #[must_use]
    pub fn least_length(&self) -> usize {
        let missing = self.message_length().unwrap_or_default().saturating_sub(self.message.len());
        let header = if missing > self.fragment_left { RECORD_HEADER } else { 0 };
        self.taken + missing + header
    }

    /// Takes record after record until the message is whole (`Some`) or the bytes run out (`None`).
    fn read(&mut self, received: &[u8]) -> Result<Option<ClientHello>, NotAHello> {
        loop {
            let missing = self.message_length()? - self.message.len();
            if missing == 0 {
                return self.parse().map(Some);
            }
            let rest = received.get(self.taken..).unwrap_or_default();
            if self.fragment_left == 0 {
                let Some(length) = fragment_length(rest)? else { return Ok(None) };
                self.taken += RECORD_HEADER;
                self.fragment_left = length;
            } else {
                let fragment = rest.get(..missing.min(self.fragment_left)).unwrap_or(rest);
                if fragment.is_empty() {
                    return Ok(None);
                }
                self.taken += fragment.len();
                self.fragment_left -= fragment.len();
                self.message.extend_from_slice(fragment);
            }
        }
    }

    /// The length of the message with its header; before the header is there, the header's.
    fn message_length(&self) -> Result<usize, NotAHello> {
        match *self.message.as_slice() {
            [CLIENT_HELLO, a, b, c, ..] => {
                Ok(MESSAGE_HEADER + usize::from(a) * 0x1_0000 + usize::from(b) * 0x100 + usize::from(c))
            }
            [] | [CLIENT_HELLO, ..] => Ok(MESSAGE_HEADER),
            _ => Err(NotAHello),
        }
    }

    fn parse(&self) -> Result<ClientHello, NotAHello> {
        let mut message = Reader(&self.message);
        message.take(MESSAGE_HEADER)?;
        Ok(ClientHello { wire_length: self.taken, ..client_hello(message)? })
    }
}

/// `type(1) version(2) length(2)` before each fragment (RFC 8446 5.1).
const RECORD_HEADER: usize = 5;
/// `type(1) length(3)` before the body of a handshake message (RFC 8446 4).
const MESSAGE_HEADER: usize = 4;
/// The longest fragment of a record (RFC 8446 5.1).
const MAX_FRAGMENT: usize = 1 << 14;

/// Record type `handshake` (RFC 8446 5.1).
const HANDSHAKE: u8 = 22;
/// The high byte of every version from SSL 3.0 to TLS 1.3.
const TLS_MAJOR: u8 = 3;
/// Handshake type `client_hello` (RFC 8446 4).
const CLIENT_HELLO: u8 = 1;

/// Extension types (IANA, TLS ExtensionType Values) that are looked into.
const SERVER_NAME: u16 = 0;
const SUPPORTED_GROUPS: u16 = 10;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;

/// Name type `host_name`, the only one there is (RFC 6066 3).
const HOST_NAME: u8 = 0;

/// The bytes are no ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NotAHello;

/// The length of the fragment behind the record header at the front of `rest`; `None` if the header is not whole.
///
/// Empty handshake fragments are forbidden (RFC 8446 5.1); nothing may come between the records of one message.
fn fragment_length(rest: &[u8]) -> Result<Option<usize>, NotAHello> {
    match *rest {
        [HANDSHAKE, TLS_MAJOR, _, high, low, ..] => match usize::from(u16::from_be_bytes([high, low])) {
            length @ 1..=MAX_FRAGMENT => Ok(Some(length)),
            _ => Err(NotAHello),
        },
        [] | [HANDSHAKE] | [HANDSHAKE, TLS_MAJOR, ..] => Ok(None),
        _ => Err(NotAHello),
    }
}

/// The body of the message (RFC 8446 4.1.2).
fn client_hello(mut body: Reader<'_>) -> Result<ClientHello, NotAHello> {
    let legacy_version = body.u16()?;
    let _random = body.take(32)?;
    let session_id = body.vector8()?;
    let cipher_suites = body.vector16()?.list(Reader::u16)?;
    let compression_methods = body.vector8()?;
    require(session_id.len() <= 32 && !cipher_suites.is_empty() && !compression_methods.is_empty())?;

    let mut hello = ClientHello {
        versions: vec![legacy_version],
        cipher_suites: without_grease(cipher_suites),
        ..ClientHello::default()
    };
    if body.is_empty() {
        return Ok(hello); // TLS 1.2 may go without extensions (RFC 5246 7.4.1.2).
    }
    let mut extensions = body.vector16()?;
    require(body.is_empty())?;
    let mut seen = HashSet::new();
    while !extensions.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vector16()?;
        require(seen.insert(kind))?; // "There MUST NOT be more than one extension of the same type" (RFC 8446 4.2).
        match kind {
            SERVER_NAME => hello.sni = server_name(data)?,
            SUPPORTED_GROUPS => hello.groups = told(data),
            SIGNATURE_ALGORITHMS => hello.signature_algorithms = told(data),
            ALPN => hello.alpn = alpn(data)?,
            SUPPORTED_VERSIONS => hello.versions = supported_versions(data)?,
            KEY_SHARE => hello.key_share_groups = key_share_groups(data)?,
            _ => {}
        }
    }
    Ok(hello)
}

/// `ServerNameList` of RFC 6066 3: `names<2>`, each `type(1) name<2>`; one name of a type at most.
fn server_name(mut data: Reader<'_>) -> Result<Option<String>, NotAHello> {
    let mut names = data.sole_vector16()?;
    require(!names.is_empty())?;
    let mut host_name = None;
    while !names.is_empty() {
        if names.u8()? != HOST_NAME {
            break; // Nobody knows where a name of another type ends.
        }
        let name = names.vector16()?;
        require(host_name.is_none() && !name.is_empty())?;
        host_name = Some(name.0);
    }
    Ok(host_name
        .filter(|name| name.iter().all(u8::is_ascii_graphic))
        .and_then(|name| String::from_utf8(name.to_vec()).ok()))
}

/// `ProtocolNameList` of RFC 7301 3.1: `protocols<2>`, each `name<1>`, none empty.
fn alpn(mut data: Reader<'_>) -> Result<Vec<Vec<u8>>, NotAHello> {
    let names = data.sole_vector16()?.list(Reader::vector8)?;
    require(!names.is_empty() && names.iter().all(|name| !name.is_empty()))?;
    Ok(names.into_iter().filter(|name| !is_grease_protocol(name.0)).map(|name| name.0.to_vec()).collect())
}

/// `SupportedVersions` of RFC 8446 4.2.1: `versions<1>`, each `version(2)`.
fn supported_versions(mut data: Reader<'_>) -> Result<Vec<u16>, NotAHello> {
    let versions = data.vector8()?.list(Reader::u16)?;
    require(data.is_empty() && !versions.is_empty())?;
    Ok(without_grease(versions))
}

/// `KeyShareClientHello` of RFC 8446 4.2.8: `shares<2>`, each `group(2) key<2>`. An empty list asks the server to choose.
fn key_share_groups(mut data: Reader<'_>) -> Result<Vec<u16>, NotAHello> {
    let groups = data.sole_vector16()?.list(|share| {
        let group = share.u16()?;
        let key = share.vector16()?;
        require(!key.is_empty()).map(|()| group)
    })?;
    Ok(without_grease(groups))
}

/// `NamedGroupList` of RFC 8446 4.2.7 and `SignatureSchemeList` of 4.2.3: `numbers<2>`; none where it is broken.
fn told(mut data: Reader<'_>) -> Vec<u16> {
    let numbers = data.sole_vector16().and_then(|list| list.list(Reader::u16));
    numbers.map(without_grease).unwrap_or_default()
}

fn without_grease(mut numbers: Vec<u16>) -> Vec<u16> {
    numbers.retain(|&number| !is_grease(number));
    numbers
}

/// 0x0A0A, 0x1A1A, … 0xFAFA: values that clients sprinkle in so that servers stay used to unknown ones (RFC 8701 2).
fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

fn is_grease_protocol(name: &[u8]) -> bool {
    matches!(*name, [high, low] if is_grease(u16::from_be_bytes([high, low])))
}

fn require(kept: bool) -> Result<(), NotAHello> {
    if kept { Ok(()) } else { Err(NotAHello) }
}

/// Takes fields off the front of some bytes. A field that is longer than what is there is a lying length.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], NotAHello> {
        let (field, rest) = self.0.split_at_checked(length).ok_or(NotAHello)?;
        self.0 = rest;
        Ok(field)
    }

    fn u8(&mut self) -> Result<u8, NotAHello> {
        let (&byte, rest) = self.0.split_first().ok_or(NotAHello)?;
        self.0 = rest;
        Ok(byte)
    }

    fn u16(&mut self) -> Result<u16, NotAHello> {
        Ok(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    /// What stands behind a length of one byte.
    fn vector8(&mut self) -> Result<Reader<'a>, NotAHello> {
        let length = self.u8()?;
        self.take(length.into()).map(Reader)
    }

    /// What stands behind a length of two bytes.
    fn vector16(&mut self) -> Result<Reader<'a>, NotAHello> {
        let length = self.u16()?;
        self.take(length.into()).map(Reader)
    }

    /// [`Reader::vector16`] with nothing behind it.
    fn sole_vector16(&mut self) -> Result<Reader<'a>, NotAHello> {
        let content = self.vector16()?;
        require(self.is_empty()).map(|()| content)
    }

    /// Elements up to the end; the last must end there.
    fn list<T>(
        mut self,
        mut element: impl FnMut(&mut Self) -> Result<T, NotAHello>,
    ) -> Result<Vec<T>, NotAHello> {
        let mut elements = Vec::new();
        while !self.is_empty() {
            elements.push(element(&mut self)?);
        }
        Ok(elements)
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;
