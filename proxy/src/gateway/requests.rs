//! Where the requests of one client go: the route, the service behind it, how that is dialled.

use std::sync::Arc;

use hyper::{Request, Version};
use pillion_mesh::policy::authz::Permit;
use pillion_mesh::policy::dial::DialPlan;
use pillion_mesh::reason::Reason;
use pillion_mesh::registry::{Destination, FoundBy, Miss, RouteMiss, RouteTarget};
use pillion_mesh::resource::Protocol;
use pillion_mesh::wire::{Direction, Parties};

use super::pool::{Kind, Pool, Sending, Way};
use crate::app::Shared;
use crate::connections::{Connection, Notes};
use crate::http::{
    Asked, Connected, Failure, Passed, RequestBody, Sender, ServerIo, Tasks, Upstream, readdress,
};
use crate::outbound::{Made, Reached, Stream, means, no_longer_planned, reach};

/// Passes the requests of one client on, each by its route.
#[derive(Debug)]
pub(super) struct Requests {
    shared: Arc<Shared>,
    notes: Notes,
    /// The Gateways' number of the port that the client came to.
    port: u16,
    pool: Pool,
    tasks: Tasks,
}

/// Where a request goes, all of it from one snapshot.
struct Found {
    by: FoundBy,
    destination: Destination,
    plan: DialPlan,
}

impl Requests {
    pub(super) fn new(shared: Arc<Shared>, notes: Notes, port: u16) -> Self {
        Self { shared, notes, port, pool: Pool::default(), tasks: Tasks::default() }
    }

    async fn find(&self, asked: &Asked) -> Result<Found, Failure> {
        let target = self.route(asked)?;
        match self.look_up(&target) {
            // An endpoint that was just restarted has a new address.
            Err(RouteMiss::Miss(Miss::NoEndpoint(_))) => {
                self.shared.resolver.refresh().await;
                self.look_up(&target)
            }
            found => found,
        }
        .map_err(|miss| failure(&miss, &target))
    }

    fn route(&self, asked: &Asked) -> Result<RouteTarget, Failure> {
        let published = self.shared.snapshot.borrow().clone();
        match published.snapshot.routes.route(self.port, &asked.host, &asked.path) {
            Ok(route) => Ok(route.target()),
            Err(none) => Err(Failure { reason: Reason::NoRoute, detail: none.to_string() }),
        }
    }

    fn look_up(&self, target: &RouteTarget) -> Result<Found, RouteMiss> {
        let published = self.shared.snapshot.borrow().clone();
        let destination = published.snapshot.registry.lookup_route(target, self.shared.next_turn())?;
        let plan = published.snapshot.plan(Some(&destination));
        Ok(Found { by: FoundBy::Route(target.clone()), destination, plan })
    }

    /// Makes a connection, with a record of its own.
    async fn connect(&self, way: Found, kind: Kind) -> Result<Way, Failure> {
        let Shared { connections, telemetry, settings, .. } = &*self.shared;
        let mut connection =
            Connection::begin(connections, telemetry, Direction::Outbound, self.notes.client());
        connection.note(|record| {
            record.service = Some(service_name(&way.destination));
            record.plan = Some(way.plan.because.clone());
        });
        let reached = match means(&way.plan, kind.address, &self.shared).await {
            Ok(means) => {
                connection.note(|record| record.upstream = Some(kind.address));
                reach(means, kind.address, &connection, &self.shared).await
            }
            Err(end) => Err(end),
        };
        let Reached { stream, own, record, tunnel, peer } = match reached {
            Ok(reached) => reached,
            Err(end) => {
                let failed = Failure { reason: end.reason, detail: end.detail.clone().unwrap_or_default() };
                connection.end(end);
                return Err(failed);
            }
        };
        let server = record.as_ref().map(Parties::from);
        connection.note(|noted| (noted.tls, noted.tunnel) = (record, tunnel));
        connection.opened();
        let stream: ServerIo = match stream {
            Stream::Plain(stream) => Box::new(stream),
            Stream::Tls(stream) => stream,
            Stream::Tunnel(stream) => stream,
        };
        let made = Made { by: way.by, destination: Some(way.destination), tls: way.plan.tls, peer };
        let shared = self.shared.clone();
        let cut = async move { no_longer_planned(&made, &shared).await };
        let connected = Connected { stream, own, closed: None, record: Some(connection) };
        let sender =
            Sender::over(connected, kind.version, settings.limits.request_head_size, &self.tasks, cut)
                .await?;
        Ok(Way { kind, sender, server })
    }
}

impl Upstream for Requests {
    const IS_EDGE: bool = true;

    async fn pass_on(
        &self,
        _permit: &Permit,
        asked: &Asked,
        mut request: Request<RequestBody>,
    ) -> Result<Passed, Failure> {
        let found = self.find(asked).await?;
        let version = version_for(found.destination.protocol, request.version());
        let kind = Kind { address: found.destination.endpoint, tls: found.plan.tls.clone(), version };
        readdress(&mut request, asked, version)
            .map_err(|detail| Failure { reason: Reason::RequestMalformed, detail })?;
        let upstream = kind.address;
        let passed = |response, server| Ok(Passed { response, upstream, server });
        // By a connection that stands; by a new one where there is none, or where the other side had closed it before
        // anything of the request was sent.
        let unsent = match self.pool.send(&kind, request) {
            Ok(Sending { answer, server }) => match answer.await {
                Ok(response) => return passed(response, server),
                Err(unanswered) => unanswered.unsent.ok_or(unanswered.failure)?,
            },
            Err(unsent) => *unsent,
        };
        let Sending { answer, server } = self.pool.send_by(self.connect(found, kind).await?, unsent);
        match answer.await {
            Ok(response) => passed(response, server),
            Err(unanswered) => Err(unanswered.failure),
        }
    }

    fn service_of(&self, asked: &Asked) -> Option<String> {
        let target = self.route(asked).ok()?;
        let published = self.shared.snapshot.borrow().clone();
        published.snapshot.registry.lookup_route(&target, 0).ok().as_ref().map(service_name)
    }

    /// The client's connection outlives those that its requests go by.
    async fn closed(&self) {
        std::future::pending::<()>().await;
    }

    fn tasks(&self) -> &Tasks {
        &self.tasks
    }
}

/// What is spoken to a service: what it declares; where it declares no HTTP, what the client speaks.
fn version_for(protocol: Protocol, client: Version) -> Version {
    match protocol {
        Protocol::Http => Version::HTTP_11,
        Protocol::Http2 => Version::HTTP_2,
        Protocol::Tls | Protocol::Tcp | Protocol::Undeclared => client,
    }
}

fn service_name(destination: &Destination) -> String {
    format!("{}:{}", destination.host, destination.port)
}

fn failure(miss: &RouteMiss, RouteTarget { host, port, subset, .. }: &RouteTarget) -> Failure {
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    match miss {
        RouteMiss::Miss(Miss::NoEndpoint(host)) => {
            Failure { reason: Reason::NoEndpoint, detail: format!("{host} has no address now") }
        }
        RouteMiss::Miss(Miss::Unknown) => Failure {
            reason: Reason::DestinationUnknown,
            detail: format!("the route leads to {host}{port}, which no ServiceEntry has"),
        },
        RouteMiss::SeveralPorts => Failure {
            reason: Reason::DestinationUnknown,
            detail: format!("the route leads to {host}, which has several ports, and names none of them"),
        },
        RouteMiss::NoSubset(host) => Failure {
            reason: Reason::DestinationUnknown,
            detail: format!(
                "the route leads to subset {} of {host}, which its DestinationRule does not have",
                subset.as_deref().unwrap_or_default()
            ),
        },
    }
}
