//! The app beside us: how it is dialled, and how requests are passed on to it, by one connection for each of the client's.

use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use hyper::{Request, Version};
use pillion_mesh::policy::authz::Permit;
use pillion_mesh::reason::Reason;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Notify};
use tracing::debug;

use crate::app::Shared;
use crate::connections::Notes;
use crate::http::{Asked, Connected, Failure, Passed, RequestBody, Sender, Tasks, Upstream};
use crate::listener::Role;
use crate::net::dial::{self, DialOptions, Dialled};
use crate::net::relay::End;
use crate::outbound::dial_fault;
use crate::settings::{InterceptionMode, TrafficPolicy};
use crate::telemetry::log::STEP;

/// The way to the app for one connection.
#[derive(Debug, Clone)]
pub(super) struct App {
    pub(super) shared: Arc<Shared>,
    pub(super) role: Arc<Role>,
    pub(super) notes: Notes,
    /// Where the client was going.
    pub(super) target: SocketAddr,
}

impl App {
    /// Connects to the app. Only who holds a permit may: the authorizer alone makes one.
    ///
    /// # Errors
    /// With the reason for the record.
    pub(super) async fn dial(&self, _permit: &Permit) -> Result<Dialled<TcpStream>, End> {
        let address = self.address();
        self.notes.note(|record| record.upstream = Some(address));
        let dialled = dial::connect_remembered(address, &self.options(address), &self.shared.own_dials)
            .await
            .map_err(|error| dial_fault(&error, address, Reason::AppUnreachable))?;
        self.notes.connected();
        let (stream, own) = dialled;
        self.notes.note(|record| record.dialled_from = Some(own.local()));
        debug!(target: STEP, id = self.notes.id(), "the app at {address} has taken the connection");
        Ok(Dialled { own: Some(own), stream })
    }

    fn address(&self) -> SocketAddr {
        match (&*self.role, self.shared.settings.inbound.traffic_policy) {
            (Role::InboundCapture | Role::InboundTunnel, TrafficPolicy::Localhost) => {
                SocketAddr::new(loopback(self.target.ip()), self.target.port())
            }
            _ => self.target,
        }
    }

    /// How the app is dialled: from 127.0.0.6 (`::6`), or with TPROXY from the client's own address, so that the
    /// interception rules let the connection pass. An app on loopback sees 127.0.0.6 in either case: the kernel would not
    /// let its answers leave a loopback address for the client's.
    fn options(&self, address: SocketAddr) -> DialOptions {
        let interception = self.shared.settings.interception;
        let tproxy = interception.mode == InterceptionMode::Tproxy && !address.ip().is_loopback();
        let by_rules = match &*self.role {
            Role::InboundCapture => true,
            Role::InboundTunnel => self.shared.settings.inbound.capture.is_some(),
            _ => false,
        };
        let source = match by_rules {
            true if tproxy => Some(self.notes.client().ip()),
            true => Some(sidecar_source(address.ip())),
            false => None,
        };
        let mark = interception.mark;
        DialOptions { source, transparent: tproxy && source.is_some(), mark, ..self.shared.dial_options() }
    }
}

fn loopback(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

fn sidecar_source(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() {
        Ipv4Addr::new(127, 0, 0, 6).into()
    } else {
        Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into()
    }
}

/// Passes the requests of one connection on to the app.
#[derive(Debug)]
pub(super) struct AppRequests {
    app: App,
    service: Option<String>,
    sender: Mutex<Option<Sender>>,
    closed: Arc<Notify>,
    tasks: Tasks,
}

impl AppRequests {
    /// `service` is what the records of requests say they are for.
    pub(super) fn new(app: App, service: Option<String>) -> Self {
        Self { app, service, sender: Mutex::default(), closed: Arc::default(), tasks: Tasks::default() }
    }

    /// A connection of the kind that the client speaks.
    async fn connect(&self, permit: &Permit, version: Version) -> Result<Sender, Failure> {
        let failed = |End { reason, detail }| Failure { reason, detail: detail.unwrap_or_default() };
        let Dialled { stream, own } = self.app.dial(permit).await.map_err(failed)?;
        let closed = Some(self.closed.clone());
        let connected = Connected { stream: Box::new(stream), own, closed, record: None };
        let head_size = self.app.shared.settings.limits.request_head_size;
        Sender::over(connected, version, head_size, &self.tasks, pending()).await
    }
}

impl Upstream for AppRequests {
    const IS_EDGE: bool = false;

    async fn pass_on(
        &self,
        permit: &Permit,
        _asked: &Asked,
        mut request: Request<RequestBody>,
    ) -> Result<Passed, Failure> {
        // Once more where the app had closed its connection before anything of the request was sent.
        for is_last in [false, true] {
            let mut sender = self.sender.lock().await;
            let open = match sender.take().filter(Sender::is_open) {
                Some(open) => open,
                None => self.connect(permit, request.version()).await?,
            };
            let open = sender.insert(open);
            open.ready().await;
            let sending = open.send(request);
            drop(sender);
            match sending.await {
                Ok(response) => {
                    return Ok(Passed { response, upstream: self.app.address(), server: None });
                }
                Err(unanswered) => match unanswered.unsent {
                    Some(unsent) if !is_last => request = unsent,
                    _ => return Err(unanswered.failure),
                },
            }
        }
        Err(Failure { reason: Reason::Internal, detail: "no try was the last".to_owned() })
    }

    fn service_of(&self, _asked: &Asked) -> Option<String> {
        self.service.clone()
    }

    async fn closed(&self) {
        self.closed.notified().await;
    }

    fn tasks(&self) -> &Tasks {
        &self.tasks
    }
}
