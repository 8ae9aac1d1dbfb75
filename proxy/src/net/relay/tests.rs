use std::sync::Arc;
use std::time::{Duration, Instant};

use pillion_mesh::wire::{By, Closed, How};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// A client and a server app with the relay between them, over real sockets.
struct Between {
    client: TcpStream,
    server: TcpStream,
    moved: Arc<Moved>,
    relay: JoinHandle<End>,
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

async fn between() -> Between {
    let ((client, mut accepted), (mut dialled, server)) = (pair().await, pair().await);
    let moved = Arc::new(Moved::since(Instant::now(), Arc::default()));
    let counters = moved.clone();
    let relay = tokio::spawn(async move {
        accepted.set_zero_linger().unwrap();
        dialled.set_zero_linger().unwrap();
        relay(&mut accepted, &mut dialled, &counters).await
    });
    Between { client, server, moved, relay }
}

/// Requirement 29: each direction closes by itself.
#[tokio::test]
async fn req_29_half_close_leaves_the_other_direction_open() {
    let mut between = between().await;
    between.client.write_all(b"question").await.unwrap();
    between.client.shutdown().await.unwrap();
    let mut question = String::new();
    timeout(LONG, between.server.read_to_string(&mut question)).await.unwrap().unwrap();
    assert_eq!(question, "question");
    between.server.write_all(b"late answer").await.unwrap();
    drop(between.server);
    let mut answer = String::new();
    timeout(LONG, between.client.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, "late answer");
    assert_eq!(between.relay.await.unwrap().reason, Reason::Completed);
    let moved = &between.moved;
    assert_eq!((moved.to_server(), moved.to_client()), (8, 11));
    assert_eq!(moved.first_end(), Some(Closed { by: By::Client, how: How::Fin }));
    assert!(moved.asked().is_some() && moved.answered() >= moved.asked(), "{moved:?}");
}

/// Requirement 29: reset in is reset out, both ways.
#[tokio::test]
async fn req_29_a_reset_is_passed_on_as_a_reset() {
    for client_resets in [true, false] {
        let between = between().await;
        let (gone, mut stays) =
            if client_resets { (between.client, between.server) } else { (between.server, between.client) };
        gone.set_zero_linger().unwrap();
        drop(gone);
        let error = timeout(LONG, stays.read(&mut [0; 1])).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let expected = if client_resets { Reason::ClientReset } else { Reason::ServerReset };
        assert_eq!(between.relay.await.unwrap().reason, expected);
    }
}

/// Requirement 30: a reader that does not read stops the writer; memory does not grow with what waits.
#[tokio::test]
async fn req_30_backpressure_reaches_the_writer() {
    let mut between = between().await;
    let block = vec![7; 1 << 20];
    let mut sent = 0u64;
    // Stops when the kernel's buffers of two connections and one kept read are full.
    while let Ok(written) = timeout(Duration::from_millis(300), between.client.write(&block)).await {
        sent += written.unwrap() as u64;
        assert!(sent < 256 << 20, "the writer is never stopped");
    }
    between.client.shutdown().await.unwrap();
    let mut received = Vec::new();
    timeout(LONG, between.server.read_to_end(&mut received)).await.unwrap().unwrap();
    assert_eq!(received.len() as u64, sent);
    assert!(received.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn bytes_arrive_whole_and_in_order_both_ways_at_once() {
    let between = between().await;
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n * 31 % 251) as u8).collect();
    let exchange = |stream: TcpStream, bytes: Vec<u8>| async move {
        let (mut read, mut write) = stream.into_split();
        let writing = tokio::spawn(async move {
            write.write_all(&bytes).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut all = Vec::new();
        read.read_to_end(&mut all).await.unwrap();
        writing.await.unwrap();
        all
    };
    let (at_client, at_server) = timeout(LONG, async {
        tokio::join!(exchange(between.client, bytes.clone()), exchange(between.server, bytes.clone()))
    })
    .await
    .unwrap();
    assert_eq!(at_client, bytes);
    assert_eq!(at_server, bytes);
}

/// The kernel passes it on without us, after the first of it.
#[tokio::test]
async fn bulk_between_sockets_arrives_whole_both_ways_and_what_is_short_behind_it_too() {
    const SIZE: usize = 24 * 1024 * 1024 + 17;
    let mut between = between().await;
    let pattern = |seed: usize| -> Vec<u8> {
        (0..SIZE).map(|at| ((at * 7 + at / 251 + seed) % 256).try_into().unwrap()).collect()
    };
    let (up, down) = (pattern(1), pattern(2));
    let (mut came_up, mut came_down) = (vec![0; SIZE], vec![0; SIZE]);
    {
        let (mut client_in, mut client_out) = between.client.split();
        let (mut server_in, mut server_out) = between.server.split();
        let all = async {
            tokio::try_join!(
                async { client_out.write_all(&up).await },
                async { server_out.write_all(&down).await },
                async { server_in.read_exact(&mut came_up).await.map(drop) },
                async { client_in.read_exact(&mut came_down).await.map(drop) },
            )
        };
        timeout(LONG, all).await.unwrap().unwrap();
    }
    assert!(came_up == up && came_down == down);
    between.client.write_all(b"short").await.unwrap();
    let mut short = [0; 5];
    timeout(LONG, between.server.read_exact(&mut short)).await.unwrap().unwrap();
    assert_eq!(&short, b"short");
    between.client.shutdown().await.unwrap();
    assert_eq!(timeout(LONG, between.server.read(&mut short)).await.unwrap().unwrap(), 0);
    between.server.write_all(b"late").await.unwrap();
    drop(between.server);
    let mut late = String::new();
    timeout(LONG, between.client.read_to_string(&mut late)).await.unwrap().unwrap();
    assert_eq!(late, "late");
    assert_eq!(between.relay.await.unwrap().reason, Reason::Completed);
    let moved = (between.moved.to_server(), between.moved.to_client());
    assert_eq!(moved, ((SIZE + 5) as u64, (SIZE + 4) as u64));
}
