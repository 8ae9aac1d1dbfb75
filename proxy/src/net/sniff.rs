//! Reads the first bytes of a connection until they are known or the deadline passes. What they are is
//! `pillion_mesh::client_hello`'s to say; nothing is lost, the bytes are handed back.

use std::io;
use std::time::Duration;

use pillion_mesh::client_hello::{ClientHello, Sniff, Sniffer};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Enough for most hellos in one read; a post-quantum key share alone takes 1,216 bytes.
const FIRST_READ: usize = 2048;

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum First {
    /// A whole ClientHello.
    Hello(Box<ClientHello>),
    /// Bytes that are none.
    Plaintext,
    /// Not enough to know: nothing, or part of a hello, before the deadline; or an end before the first byte. (Part of
    /// a hello and then an end can become none: that is plaintext.)
    Silent,
    /// It may be a hello, but it is longer than the limit.
    TooLarge,
}

/// What was seen and all bytes that were read for it.
#[derive(Debug)]
pub(crate) struct Sniffed {
    pub(crate) first: First,
    pub(crate) bytes: Vec<u8>,
    /// Whether nothing comes behind them.
    pub(crate) ended: bool,
}

/// Reads at most `limit` bytes and for at most `deadline`. A first byte that cannot be TLS decides at once.
///
/// # Errors
/// Those of the socket, a reset among them.
pub(crate) async fn sniff(stream: &TcpStream, limit: usize, deadline: Duration) -> io::Result<Sniffed> {
    let mut bytes = Vec::new();
    let (first, ended) = match timeout(deadline, read_until_known(stream, limit, &mut bytes)).await {
        Ok(Ok(first)) => (first, false),
        Ok(Err(Stopped::End)) if bytes.is_empty() => (First::Silent, true),
        Ok(Err(Stopped::End)) => (First::Plaintext, true),
        Ok(Err(Stopped::Fault(error))) => return Err(error),
        Err(_elapsed) => (First::Silent, false),
    };
    Ok(Sniffed { first, bytes, ended })
}

/// Why nothing more comes.
enum Stopped {
    End,
    Fault(io::Error),
}

async fn read_until_known(stream: &TcpStream, limit: usize, bytes: &mut Vec<u8>) -> Result<First, Stopped> {
    let mut sniffer = Sniffer::default();
    loop {
        // Waiting without a buffer: a silent client costs no memory for one.
        stream.readable().await.map_err(Stopped::Fault)?;
        bytes.reserve(FIRST_READ.min(limit.saturating_sub(bytes.len()).max(1)));
        match stream.try_read_buf(bytes) {
            Ok(0) => return Err(Stopped::End),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(Stopped::Fault(error)),
        }
        match sniffer.sniff(bytes) {
            Sniff::Tls(hello) if hello.wire_length <= limit => return Ok(First::Hello(Box::new(hello))),
            Sniff::Tls(_) => return Ok(First::TooLarge),
            Sniff::NotTls => return Ok(First::Plaintext),
            // By its own claim it will not fit: no need to wait for the rest.
            Sniff::NeedMore if bytes.len().max(sniffer.least_length()) > limit => return Ok(First::TooLarge),
            Sniff::NeedMore => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    const LONG: Duration = Duration::from_secs(30);

    /// Requirement 22: a first byte that cannot be TLS is forwarded at once.
    #[tokio::test]
    async fn req_22_one_plaintext_byte_decides() {
        let (mut client, server) = pair().await;
        client.write_all(b"G").await.unwrap();
        let sniffed = sniff(&server, 65536, LONG).await.unwrap();
        assert_eq!((sniffed.first, sniffed.bytes), (First::Plaintext, b"G".to_vec()));
    }

    /// Requirement 22: data and FIN in one segment lose nothing.
    #[tokio::test]
    async fn req_22_a_byte_with_its_end_is_plaintext_and_kept() {
        let (mut client, server) = pair().await;
        client.write_all(&[0x16]).await.unwrap();
        client.shutdown().await.unwrap();
        let sniffed = sniff(&server, 65536, LONG).await.unwrap();
        assert_eq!((sniffed.first, sniffed.bytes), (First::Plaintext, vec![0x16]));
        assert!(sniffed.ended);
    }

    #[tokio::test]
    async fn an_end_before_the_first_byte_is_silence() {
        let (mut client, server) = pair().await;
        client.shutdown().await.unwrap();
        let sniffed = sniff(&server, 65536, LONG).await.unwrap();
        assert_eq!((sniffed.first, sniffed.ended), (First::Silent, true));
    }

    /// Requirement 21: bounded by a deadline; the part that came is kept for the app.
    #[tokio::test]
    async fn req_21_part_of_a_hello_at_the_deadline_is_silence_with_its_bytes() {
        let (mut client, server) = pair().await;
        client.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
        let sniffed = sniff(&server, 65536, Duration::from_millis(50)).await.unwrap();
        assert_eq!((sniffed.first, sniffed.bytes.len(), sniffed.ended), (First::Silent, 6, false));
    }

    /// Requirement 21: bounded in bytes.
    #[tokio::test]
    async fn req_21_a_hello_longer_than_the_limit_is_too_large() {
        let (mut client, server) = pair().await;
        let mut record = vec![0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3];
        record.resize(4096, 0);
        client.write_all(&record).await.unwrap();
        let sniffed = sniff(&server, 1024, LONG).await.unwrap();
        assert_eq!(sniffed.first, First::TooLarge);
        assert!(sniffed.bytes.len() <= 1024 + FIRST_READ, "{} bytes were read", sniffed.bytes.len());
    }
}
