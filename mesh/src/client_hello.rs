//! Reads a TLS ClientHello from the first bytes of a connection (RFC 8446 4.1.2, RFC 5246 7.4.1.2, records after
//! RFC 8446 5.1), however TCP and the record layer cut it.

/// The most bytes that are read before a hello is refused, records and headers included.
pub const MAX_BYTES: usize = 64 * 1024;

/// The ALPN protocols that mark the mesh's own TLS (Istio's).
pub const MESH_ALPN: [&[u8]; 5] = [b"istio", b"istio-peer-exchange", b"istio-http/1.0", b"istio-http/1.1", b"istio-h2"];

/// What the bytes so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sniff {
    /// They can still become a ClientHello.
    NeedMore,
    /// They cannot, whatever follows.
    NotTls,
    /// A whole ClientHello.
    Tls(ClientHello),
}

/// What a client offers. Lists keep the client's order; GREASE values (RFC 8701) are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// Server name (RFC 6066 3), if one that is valid ASCII was sent.
    pub sni: Option<String>,
    /// ALPN protocols (RFC 7301), byte for byte.
    pub alpn: Vec<Vec<u8>>,
    /// Protocol versions: `supported_versions` (RFC 8446 4.2.1), else the legacy version.
    pub versions: Vec<u16>,
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
pub fn sniff(_bytes: &[u8]) -> Sniff {
    todo!()
}
