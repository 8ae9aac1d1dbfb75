//! Takes the identity from an agent, such as SPIRE's, by the SPIFFE Workload API: holds one stream open and uses each
//! message of it.
//!
//! An agent that goes away costs nothing while the certificate lasts, and neither does one that no longer has an identity
//! for us: SPIFFE Workload API 5.2.1 would have it dropped at once, but an agent says the same while it starts, and the
//! certificate is short-lived. What each message says is whole, so a bundle that it leaves out is gone.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pillion_mesh::rotation;
use pillion_mesh::wire::rfc3339;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status, Streaming};
use tracing::{info, warn};

use super::Own;
use super::authority::check_ours;
use super::expiry::Expiry;
use super::publish::Publisher;
use crate::tls::{Clock, Credentials, TlsSettings};
use crate::workload_api::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use crate::workload_api::proto::{X509svidRequest, X509svidResponse};
use crate::workload_api::{Given, SECURITY_HEADER, Sender};

/// The longest message: dozens of bundles.
const MESSAGE_LIMIT: usize = 1024 * 1024;
/// How long the agent may take to accept, and to send the first message.
const ANSWER: Duration = Duration::from_secs(10);
/// How often an agent that says nothing is asked whether it lives.
const ASK: Duration = Duration::from_secs(30);
/// How often the end of the certificate is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// The back-off ends with this many failures: 16 s, since nothing but this host is asked.
const MOST_FAILURES: u32 = 6;
/// How much of the agent's words goes into our log.
const DETAIL_LIMIT: usize = 300;

/// The task that listens to the agent.
pub(super) struct Agent {
    own: Own,
    socket: PathBuf,
    tls: TlsSettings,
    clock: Clock,
    publisher: Publisher,
    expiry: Expiry,
    /// Failed tries since the last message that was used.
    failures: u32,
    /// What was complained about last, since then.
    reported: Option<String>,
}

/// Why nothing comes from the agent now.
enum Fault {
    /// No connection, or a broken one.
    Unreachable(String),
    /// The agent said no.
    Refused(Status),
    /// The stream has ended.
    Ended,
    /// Nothing came in time.
    TooSlow,
}

impl Agent {
    pub(super) fn new(
        own: Own,
        socket: PathBuf,
        tls: TlsSettings,
        clock: Clock,
        publisher: Publisher,
    ) -> Agent {
        let expiry = Expiry::of(
            format!("the Workload API at unix://{}", socket.display()),
            "its agent has to give another; its log may say why it does not",
        );
        Agent { own, socket, tls, clock, publisher, expiry, failures: 0, reported: None }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        loop {
            let fault = self.listen().await;
            self.failures = self.failures.saturating_add(1);
            self.complain(fault.to_string());
            sleep(rotation::backoff(self.failures.min(MOST_FAILURES), fastrand::f64())).await;
            self.expiry.mind(&self.publisher, &self.clock);
        }
    }

    /// Uses what comes, until nothing comes any more.
    async fn listen(&mut self) -> Fault {
        let mut driver = JoinSet::new(); // aborts with this stream
        let opened = async {
            let mut stream = self.open(&mut driver).await?;
            let first = stream.message().await;
            Ok((stream, first))
        };
        let (mut stream, mut message) = match timeout(ANSWER, opened).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(fault)) => return fault,
            Err(_elapsed) => return Fault::TooSlow,
        };
        loop {
            match message {
                Ok(Some(message)) => self.take(message),
                Ok(None) => return Fault::Ended,
                Err(status) => return Fault::Refused(status),
            }
            message = loop {
                tokio::select! {
                    next = stream.message() => break next,
                    () = sleep(LOOK) => self.expiry.mind(&self.publisher, &self.clock),
                }
            };
        }
    }

    async fn open(&self, driver: &mut JoinSet<()>) -> Result<Streaming<X509svidResponse>, Fault> {
        let unreachable = |error: &dyn fmt::Display| Fault::Unreachable(error.to_string());
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| unreachable(&error))?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(ASK)
            .keep_alive_timeout(ANSWER)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(&error))?;
        driver.spawn(async move { drop(connection.await) });
        let mut request = tonic::Request::new(X509svidRequest {});
        let (name, value) = SECURITY_HEADER;
        request.metadata_mut().insert(name, MetadataValue::from_static(value));
        let origin = hyper::Uri::from_static("http://localhost"); // a Unix socket has no name
        let answer = SpiffeWorkloadApiClient::with_origin(Sender::new(sender), origin)
            .max_decoding_message_size(MESSAGE_LIMIT)
            .fetch_x509svid(request)
            .await
            .map_err(Fault::Refused)?;
        Ok(answer.into_inner())
    }

    /// One message: used, or complained about. What is in use stays then; the next message may be better.
    fn take(&mut self, message: X509svidResponse) {
        match self.load(message) {
            Ok((credentials, faults)) => {
                let svid = &credentials.svid;
                info!(
                    "certificate of {} (serial {}) from the Workload API at unix://{}, valid until {}",
                    svid.id,
                    svid.serial,
                    self.socket.display(),
                    rfc3339::print(svid.not_after)
                );
                self.publisher.publish(credentials);
                (self.failures, self.reported) = (0, None);
                for fault in faults {
                    warn!("the Workload API at unix://{}: {fault}", self.socket.display());
                }
            }
            Err(fault) => self.complain(format!("its answer cannot be used: {fault}")),
        }
    }

    fn load(&self, message: X509svidResponse) -> Result<(Credentials, Vec<String>), String> {
        let Given { chain, key, own_bundle, foreign, faults } =
            Given::of(message, &self.own.id).map_err(|error| error.to_string())?;
        let bundles = own_bundle.also_for(&self.own.aliases).with_foreign(&foreign);
        let generation = self.publisher.next_generation();
        let credentials = Credentials::new(chain, &key, bundles, self.tls, &self.clock, generation)
            .map_err(|error| error.to_string())?;
        check_ours(&credentials, &self.own.id, &self.clock)?;
        Ok((credentials, faults))
    }

    /// The same thing once.
    fn complain(&mut self, fault: String) {
        let place = format!("the Workload API at unix://{}: {fault}", self.socket.display());
        if self.reported.as_ref() != Some(&fault) {
            match self.publisher.current() {
                None => warn!("no certificate yet: {place}"),
                Some(current) => warn!(
                    "{place}; the certificate in use stays, it lasts until {}",
                    rfc3339::print(current.svid.not_after)
                ),
            }
        }
        self.publisher.failed(place);
        self.reported = Some(fault);
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unreachable(error) => {
                write!(
                    f,
                    "it cannot be reached: {error}; is the agent running, and may this user open its socket?"
                )
            }
            Fault::Refused(status) => {
                let said: String =
                    status.message().chars().take(DETAIL_LIMIT).flat_map(char::escape_debug).collect();
                let cure = match status.code() {
                    Code::PermissionDenied => "; it has no identity for this process: register it there",
                    _ => "",
                };
                write!(f, "it answered {:?}: {said}{cure}", status.code())
            }
            Fault::Ended => f.write_str("it ended the stream"),
            Fault::TooSlow => write!(f, "it did not answer within {} s", ANSWER.as_secs()),
        }
    }
}
