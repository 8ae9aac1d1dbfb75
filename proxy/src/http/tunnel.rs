//! A connection that has changed its protocol (WebSocket and others): from then on bytes, judged as the one request that
//! began it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::downcast;
use pillion_mesh::reason::Reason;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::io::HttpIo;
use super::record::Recording;
use super::sender::ServerIo;
use crate::net::Leg;
use crate::net::moved::Moved;
use crate::net::relay::{End, relay};
use crate::net::rewind::Rewound;

/// How long hyper may take to hand both sockets over.
const HAND_OVER: Duration = Duration::from_secs(5);

/// The tunnel that a connection becomes; at most one, since HTTP/1 does one thing after the other.
#[derive(Default)]
pub(super) struct Slot(Mutex<Option<Tunnel>>);

impl Slot {
    pub(super) fn put(&self, tunnel: Tunnel) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
    }

    pub(super) fn take(&self) -> Option<Tunnel> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Both sides of a connection whose protocol is about to change.
pub(super) struct Tunnel {
    client: OnUpgrade,
    server: OnUpgrade,
    cut: Pin<Box<dyn Future<Output = String> + Send>>,
    recording: Recording,
}

impl Tunnel {
    pub(super) fn new(
        client: OnUpgrade,
        server: OnUpgrade,
        cut: Pin<Box<dyn Future<Output = String> + Send>>,
        recording: Recording,
    ) -> Self {
        Self { client, server, cut, recording }
    }

    /// Relays until one side ends, or a changed policy no longer allows the request that began it. `S` is the client's
    /// socket.
    pub(super) async fn run<S>(self) -> End
    where
        S: AsyncRead + AsyncWrite + Leg + Unpin + Send + 'static,
    {
        let Self { client, server, cut, mut recording } = self;
        let sides = async {
            let (client, server) = tokio::try_join!(client, server).map_err(|error| error.to_string())?;
            Ok::<_, String>((client_side::<S>(client)?, server_side(server)?))
        };
        let end = match timeout(HAND_OVER, sides).await {
            Ok(Ok((mut client, mut server))) => {
                // The client's socket counts its bytes itself.
                let moved = Moved::since(Instant::now(), Arc::default());
                tokio::select! {
                    end = relay(&mut client, &mut server, &moved) => end,
                    because = cut => End { reason: Reason::PolicyChanged, detail: Some(because) },
                }
            }
            Ok(Err(fault)) => End { reason: Reason::Internal, detail: Some(fault) },
            Err(_elapsed) => End {
                reason: Reason::ServerReset,
                detail: Some(format!("the change of protocol was not finished within {HAND_OVER:?}")),
            },
        };
        recording.finish(end.reason, end.detail.clone());
        end
    }
}

fn client_side<S>(upgraded: Upgraded) -> Result<Rewound<HttpIo<S>>, String>
where
    S: AsyncRead + AsyncWrite + Leg + Unpin + Send + 'static,
{
    let parts =
        downcast::<TokioIo<HttpIo<S>>>(upgraded).map_err(|_| "the client's socket is another".to_owned())?;
    Ok(Rewound::new(parts.read_buf.to_vec(), parts.io.into_inner()))
}

fn server_side(upgraded: Upgraded) -> Result<Rewound<HttpIo<ServerIo>>, String> {
    let parts = upgraded
        .downcast::<TokioIo<HttpIo<ServerIo>>>()
        .map_err(|_| "the server's socket is another".to_owned())?;
    Ok(Rewound::new(parts.read_buf.to_vec(), parts.io.into_inner()))
}
