//! Bytes through [`TlsStream`]: whole, in order, in bounded memory, and not at all behind a fault.

use std::io::IoSlice;

use pillion_testkit::tls::{TLS12, TLS13, client_of_versions};
use proptest::prelude::*;

use super::*;
use crate::tls::stream::MOST_HELD;

/// Our client and our server, connected by a pipe of `size` bytes each way.
async fn pair(size: usize) -> (TlsStream<DuplexStream>, TlsStream<DuplexStream>) {
    let ca = TestCa::root("root");
    let [client, server] = [CLIENT, SERVER].map(|id| credentials(&ca.issue(id), bundle(&ca)));
    let (near, far) = duplex(size);
    let near = client::connect(near, Arc::default(), &client, there(), SNI, [id(SERVER)]);
    let far = server::accept(far, Arc::default(), &server, DOOR);
    let (near, far) = tokio::join!(near, far);
    (near.unwrap().0, far.unwrap().0)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// Writes `bytes` in pieces of `step` and ends; reads at the other end in pieces of `read`.
async fn pass(
    mut from: TlsStream<DuplexStream>,
    mut to: TlsStream<DuplexStream>,
    bytes: &[u8],
    (step, read): (usize, usize),
) -> Vec<u8> {
    let writing = async {
        for piece in bytes.chunks(step) {
            from.write_all(piece).await.unwrap();
        }
        from.shutdown().await.unwrap();
    };
    let reading = async {
        let (mut all, mut buffer) = (Vec::new(), vec![0; read]);
        loop {
            let count = to.read(&mut buffer).await.unwrap();
            if count == 0 {
                return all;
            }
            all.extend_from_slice(&buffer[..count]);
        }
    };
    timeout(LONG, async { tokio::join!(writing, reading) }).await.unwrap().1
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// However it is cut on the way, what comes out is what went in.
    #[test]
    fn the_reader_gets_what_was_written(
        length in 0usize..300_000,
        step in 1usize..100_000,
        read in 1usize..100_000,
        pipe in 64usize..100_000,
        by_server in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bytes = pattern(length);
        let steps = (step.max(length / 500 + 1), read.max(length / 500 + 1));
        let got = runtime.block_on(async {
            let (near, far) = pair(pipe).await;
            let (from, to) = if by_server { (far, near) } else { (near, far) };
            pass(from, to, &bytes, steps).await
        });
        prop_assert!(got == bytes, "{} bytes of {length}", got.len());
    }
}

#[tokio::test]
async fn an_idle_stream_holds_no_buffer() {
    let (mut near, mut far) = pair(64 * 1024).await;
    let bytes = pattern(200_000);
    let both = async {
        let mut got = vec![0; bytes.len()];
        let writing = async {
            near.write_all(&bytes).await.unwrap();
            near.flush().await.unwrap();
        };
        tokio::join!(writing, async { far.read_exact(&mut got).await.unwrap() });
        far.write_all(b"thanks").await.unwrap();
        far.flush().await.unwrap();
        near.read_exact(&mut [0; 6]).await.unwrap();
    };
    timeout(LONG, both).await.unwrap();
    assert_eq!((near.held(), far.held()), (0, 0));
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_sent_no_more_than_a_batch() {
    let (mut near, _far) = pair(64 * 1024).await;
    let bytes = pattern(16 * 1024);
    let mut taken = 0;
    while let Ok(written) = timeout(Duration::from_millis(20), near.write(&bytes)).await {
        taken += written.unwrap();
        assert!(taken < 1024 * 1024, "{taken} bytes were taken");
    }
    assert!(near.held() <= MOST_HELD, "{} bytes are held", near.held());
}

#[tokio::test]
async fn slices_that_are_written_together_are_one_record() {
    let (mut near, mut far) = pair(64 * 1024).await;
    let (head, body) = (pattern(9), pattern(16_000));
    let slices = [IoSlice::new(&head), IoSlice::new(&[]), IoSlice::new(&body)];
    assert_eq!(near.write_vectored(&slices).await.unwrap(), 16_009);
    let mut got = vec![0; 20_000];
    assert_eq!(far.read(&mut got).await.unwrap(), 16_009);
    assert!(got[..9] == head && got[9..16_009] == body);
}

/// Long ones are not copied behind each other for that: each has records of its own, in one write, and no more than a batch.
#[tokio::test]
async fn long_slices_that_are_written_together_arrive_in_order() {
    let (mut near, mut far) = pair(64 * 1024).await;
    let (head, body, more) = (pattern(9), pattern(40_000), pattern(400_000));
    let slices = [&head, &body, &more].map(|bytes| IoSlice::new(bytes));
    let written = near.write_vectored(&slices).await.unwrap();
    assert!((40_010..440_009).contains(&written), "{written}");
    let mut got = vec![0; written];
    let both = async { tokio::join!(near.flush(), far.read_exact(&mut got)) };
    let (flushed, read) = timeout(LONG, both).await.unwrap();
    assert_eq!((flushed.unwrap(), read.unwrap()), ((), written));
    assert!(got == [head, body, more].concat()[..written]);
}

/// Behind a record that does not open there is nothing more to read, nor to write, and nobody panics over it.
#[tokio::test]
async fn behind_a_broken_record_nothing_more_passes() {
    let ca = TestCa::root("root");
    let ours = credentials(&ca.issue(SERVER), bundle(&ca));
    for versions in [TLS12, TLS13] {
        let (near, far) = duplex(64 * 1024);
        let config = client_of_versions(&ca, Some(&ca.issue(CLIENT)), versions);
        let connector = TlsConnector::from(Arc::new(config));
        let client = async { connector.connect(pillion_testkit::tls::any_name(), near).await.unwrap() };
        let (client, server) = tokio::join!(client, server::accept(far, Arc::default(), &ours, DOOR));
        let (mut server, _) = server.unwrap();
        let (mut wire, _) = client.into_inner();
        wire.write_all(&[23, 3, 3, 0, 32]).await.unwrap();
        wire.write_all(&[7; 32]).await.unwrap();
        let error = server.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert_eq!(server.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(server.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let _ = server.shutdown().await;
    }
}

/// An end of the transport without close_notify may be an attacker's.
#[tokio::test]
async fn an_end_without_close_notify_is_an_error() {
    let (near, mut far) = pair(64 * 1024).await;
    drop(near);
    assert_eq!(far.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}
