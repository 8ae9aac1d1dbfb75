//! The connections that one client's requests are passed on by: kept for its next ones, and ended with it.
//!
//! None is shared between clients, so that what a client does to a connection concerns itself alone.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::body::Incoming;
use hyper::{Request, Response, Version};
use pillion_mesh::policy::dial::DialTls;
use pillion_mesh::wire::Parties;

use crate::http::{RequestBody, Sender, Unanswered};

/// Idle connections that are kept at most.
const MAX_IDLE: usize = 16;

/// What makes one connection as good as another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) address: SocketAddr,
    pub(super) tls: DialTls,
    pub(super) version: Version,
}

/// A connection that stands.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) kind: Kind,
    pub(super) sender: Sender,
    /// Who has proved what; none in plaintext.
    pub(super) server: Option<Parties>,
}

/// The connections of one client.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Vec<Way>>);

/// A request that is being sent, and who gets it.
pub(super) struct Sending {
    pub(super) answer: Answering,
    pub(super) server: Option<Parties>,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Incoming>, Box<Unanswered>>> + Send>>;

impl Way {
    fn send(&mut self, request: Request<RequestBody>) -> Sending {
        Sending { answer: Box::pin(self.sender.send(request)), server: self.server.clone() }
    }
}

impl Pool {
    fn ways(&self) -> MutexGuard<'_, Vec<Way>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request by a connection that can take it at once.
    ///
    /// # Errors
    /// With the request where there is none.
    pub(super) fn send(
        &self,
        kind: &Kind,
        request: Request<RequestBody>,
    ) -> Result<Sending, Box<Request<RequestBody>>> {
        let mut ways = self.ways();
        ways.retain(|way| way.sender.is_open());
        match ways.iter_mut().find(|way| way.kind == *kind && way.sender.is_ready()) {
            Some(way) => Ok(way.send(request)),
            None => Err(Box::new(request)),
        }
    }

    /// Sends a request by a new connection, and keeps that; lets go of the one that has been idle for longest where there
    /// are many.
    pub(super) fn send_by(&self, mut way: Way, request: Request<RequestBody>) -> Sending {
        let sending = way.send(request);
        let mut ways = self.ways();
        ways.retain(|way| way.sender.is_open());
        if ways.len() >= MAX_IDLE
            && let Some(idle) = ways.iter().position(|way| way.sender.is_ready())
        {
            ways.remove(idle);
        }
        ways.push(way);
        sending
    }
}
