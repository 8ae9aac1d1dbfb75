//! Answers the calls of apps: the first message at once, then another with each change.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::codegen::Service;
use tonic::{Code, Request, Response, Status};
use tracing::{debug, info, warn};

use super::authority::Named;
use super::proto::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use super::proto::{X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse};
use super::{SECURITY_HEADER, Socket, messages};
use crate::telemetry::Telemetry;
use crate::tls::{Credentials, LiveCredentials};

/// Connections at the same time: every process of a workload has one or two.
const MAX_CONNECTIONS: usize = 256;
/// Calls at the same time on one connection.
const MAX_STREAMS: u32 = 16;
/// Bytes of a request's head, and of its message, which is empty.
const MAX_REQUEST: u32 = 8 * 1024;
/// How long a connection may take to its first call.
const FIRST_CALL: Duration = Duration::from_secs(30);
/// How often a silent client is asked whether it lives, and how long it may take to say so.
const ASK: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(20);
/// Pause after the kernel did not hand over a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves until `stop`, when every stream ends.
pub(crate) async fn serve(
    socket: Socket,
    credentials: LiveCredentials,
    telemetry: Arc<Telemetry>,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accepting = async {
        loop {
            // Those beyond wait in the queue of the socket.
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            match socket.listener.accept().await {
                Ok((stream, _)) => {
                    let api = Api {
                        credentials: credentials.clone(),
                        telemetry: telemetry.clone(),
                        caller: Caller::of(&stream),
                    };
                    let connection = stop.clone().run_until_cancelled_owned(connection(stream, api));
                    tokio::spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    warn!(%error, "the Workload API's socket hands over no connection");
                    telemetry.accept_failed();
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accepting).await;
}

/// One connection to its end.
async fn connection(stream: UnixStream, api: Api) {
    let called = Arc::new(AtomicBool::new(false));
    let telemetry = api.telemetry.clone();
    let server = SpiffeWorkloadApiServer::new(api).max_decoding_message_size(4096);
    let service = {
        let called = called.clone();
        service_fn(move |request| {
            called.store(true, Ordering::Relaxed);
            respond(server.clone(), telemetry.clone(), request)
        })
    };
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_REQUEST)
        .keep_alive_interval(ASK)
        .keep_alive_timeout(ANSWER)
        .serve_connection(TokioIo::new(Named::new(stream)), service);
    let silent = async {
        sleep(FIRST_CALL).await;
        if called.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = served => if let Err(error) = ended {
            debug!(%error, "a connection to the Workload API broke");
        },
        () = silent => debug!("a connection to the Workload API brought no call"),
    }
}

/// Refuses what lacks the security header, whatever it asks for.
async fn respond(
    mut server: SpiffeWorkloadApiServer<Api>,
    telemetry: Arc<Telemetry>,
    request: hyper::Request<hyper::body::Incoming>,
) -> Result<hyper::Response<tonic::body::Body>, Infallible> {
    let (name, value) = SECURITY_HEADER;
    let mut values = request.headers().get_all(name).iter();
    if values.next().is_some_and(|first| first == value) && values.next().is_none() {
        return server.call(request).await;
    }
    telemetry.workload_api_answered("any", word(Code::InvalidArgument));
    let because = format!(
        "expected the metadata {name}: {value}, exactly once (SPIFFE Workload Endpoint 6.1); a SPIFFE library sends it"
    );
    Ok(Status::invalid_argument(because).into_http())
}

/// What answers the calls of one connection.
#[derive(Clone)]
struct Api {
    credentials: LiveCredentials,
    telemetry: Arc<Telemetry>,
    caller: Caller,
}

/// Who opened a connection, as the kernel says.
#[derive(Debug, Clone, Copy)]
struct Caller {
    uid: Option<u32>,
    pid: Option<i32>,
}

impl Caller {
    fn of(stream: &UnixStream) -> Caller {
        let credentials: io::Result<_> = stream.peer_cred();
        let credentials = credentials.ok();
        Caller {
            uid: credentials.as_ref().map(tokio::net::unix::UCred::uid),
            pid: credentials.and_then(|credentials| credentials.pid()),
        }
    }
}

type Stream<M> = ReceiverStream<Result<M, Status>>;

impl Api {
    /// What `message` makes of the credentials, now and after each change. A client that reads slowly gets the newest,
    /// not all.
    fn follow<M: Send + 'static>(
        &self,
        method: &'static str,
        message: fn(Option<&Credentials>) -> Result<M, Status>,
    ) -> Result<Response<Stream<M>>, Status> {
        let mut credentials = self.credentials.clone();
        let current = credentials.borrow_and_update().clone();
        let first = message(current.as_deref());
        let code = first.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.telemetry.workload_api_answered(method, word(code));
        let Caller { uid, pid } = self.caller;
        if let (Ok(_), Some(current)) = (&first, &current) {
            let svid = &current.svid;
            info!(?uid, ?pid, "{method} of the Workload API: given {} (serial {})", svid.id, svid.serial);
        } else if let Err(status) = &first {
            debug!(?uid, ?pid, "{method} of the Workload API: {status}");
        }
        let first = first?;
        let (sender, messages) = mpsc::channel(1);
        let open = Open::count(self.telemetry.workload_api_streams());
        tokio::spawn(async move {
            let _open = open;
            // Sending fails when the client has gone.
            if sender.send(Ok(first)).await.is_err() {
                return;
            }
            loop {
                tokio::select! {
                    changed = credentials.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
                let Ok(room) = sender.reserve().await else { return };
                let current = credentials.borrow_and_update().clone();
                let next = message(current.as_deref());
                let ends = next.is_err();
                room.send(next);
                if ends {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Api {
    type FetchX509SVIDStream = Stream<X509svidResponse>;
    type FetchX509BundlesStream = Stream<X509BundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.follow("FetchX509SVID", messages::svids)
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.follow("FetchX509Bundles", messages::bundles)
    }
}

/// A code's name in the standard of gRPC, of those that are answered here.
fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::PermissionDenied => "PERMISSION_DENIED",
        _ => "INTERNAL",
    }
}

/// A stream that is open, for the gauge.
struct Open(Gauge);

impl Open {
    fn count(gauge: Gauge) -> Open {
        gauge.inc();
        Open(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
