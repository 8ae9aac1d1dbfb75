//! hyper's connection as tonic wants one.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::client::conn::http2::SendRequest;
use hyper::http::{Request, Response};
use tonic::codegen::Service;

/// Sends the calls of a client over one connection.
pub(crate) struct Sender(SendRequest<tonic::body::Body>);

impl Sender {
    pub(crate) fn new(sender: SendRequest<tonic::body::Body>) -> Sender {
        Sender(sender)
    }
}

impl Service<Request<tonic::body::Body>> for Sender {
    type Response = Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
