//! Tunnels (HBONE): connections that share a session of mutual TLS, each as a CONNECT of HTTP/2. Out, by a pool for each
//! pair of identities and each endpoint ([`pool`]); in, at a door of their own ([`server`]). Above, a place in a tunnel is a
//! stream like a socket ([`stream`]).
//!
//! Frames and flow control are the crate h2's. What may be asked in a tunnel and which one a connection takes is
//! `pillion_mesh::tunnel`'s to decide; what becomes of a connection that came in by one, `inbound`'s.

mod client;
mod noted;
mod pool;
mod server;
mod stream;

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

pub(crate) use pool::{Entered, Pools};
pub(crate) use server::serve;
pub(crate) use stream::{Ending, TunnelStream};

/// Bytes of one connection that are taken before they are passed on; so much may be on the way of it.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// Bytes of all connections in a tunnel together. More than that of a few, which may stand still, so that the others go on.
const TUNNEL_WINDOW: u32 = 16 * 1024 * 1024;
/// Bytes of one connection that wait to be sent.
const SEND_BUFFER: usize = 512 * 1024;
/// Bytes of one frame that we take.
const FRAME: u32 = 256 * 1024;
/// Bytes of the head of a CONNECT, or of its answer: a few short lines.
const HEAD: u32 = 16 * 1024;
/// Streams that a peer may open and take back before they are looked at, and more of which are an attack (CVE-2023-44487).
const TAKEN_BACK: usize = 20;
/// Streams that we have ended and of which frames may still come.
const REMEMBERED: usize = 64;
/// How often the other side is asked whether it still lives, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_WITHIN: Duration = Duration::from_secs(20);
/// For the last frames of a tunnel that ends in order.
const FAREWELL: Duration = Duration::from_secs(1);

/// Ends when the other side does not answer any more, with the reason in words.
async fn silent(pings: Option<PingPong>) -> String {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        sleep(PING_EVERY).await;
        match timeout(PONG_WITHIN, pings.ping(Ping::opaque())).await {
            Ok(Ok(_pong)) => {}
            // The connection itself tells of that.
            Ok(Err(_broken)) => return std::future::pending().await,
            Err(_elapsed) => return format!("no answer to a ping within {PONG_WITHIN:?}"),
        }
    }
}
