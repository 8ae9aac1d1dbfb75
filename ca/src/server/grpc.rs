//! Istio's gRPC service `istio.v1.auth.IstioCertificateService`: whatever can take its certificate from istiod can take it
//! from here. The same evidence, the same limits, the same audit log as over HTTPS.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response};
use tonic::Status;
use tonic::codegen::Service;
use tonic::metadata::{MetadataMap, MetadataValue};

use self::api_of_istio::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use self::api_of_istio::{IstioCertificateRequest, IstioCertificateResponse};
use super::api::{self, Api};
use super::desk::{BODY_LIMIT, Caller, Case, Denial, Door};
use crate::attest::Refusal;
use crate::authority::Issued;

/// What `build.rs` makes of `proto/ca.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    reason = "made by tonic"
)]
mod api_of_istio {
    tonic::include_proto!("istio.v1.auth");
}

/// The path of every call begins so.
pub(super) const PREFIX: &str = "/istio.v1.auth.IstioCertificateService/";

/// A message comes behind a byte for its compression and four for its length.
const FRAME: usize = 5;

/// Answers one call.
pub(super) async fn answer(
    api: Arc<Api>,
    caller: Arc<Caller>,
    request: Request<Incoming>,
) -> Response<tonic::body::Body> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, FRAME + BODY_LIMIT).collect().await {
        Ok(body) => Full::new(body.to_bytes()),
        Err(error) => {
            let denial = api::broken(&*error);
            let answer = worded(&denial).into_http();
            api.desk().open(&caller, Door::Grpc).close(&Err(denial));
            return answer;
        }
    };
    let mut service =
        IstioCertificateServiceServer::new(Call { api, caller }).max_decoding_message_size(BODY_LIMIT);
    match service.call(Request::from_parts(head, body)).await {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

/// One call with its caller.
struct Call {
    api: Arc<Api>,
    caller: Arc<Caller>,
}

#[tonic::async_trait]
impl IstioCertificateService for Call {
    async fn create_certificate(
        &self,
        request: tonic::Request<IstioCertificateRequest>,
    ) -> Result<tonic::Response<IstioCertificateResponse>, Status> {
        let desk = self.api.desk();
        let mut case = desk.open(&self.caller, Door::Grpc);
        let outcome = sign(&mut case, &request);
        case.close(&outcome);
        match outcome {
            Ok(issued) => {
                let cert_chain = whole_chain(&issued.chain_pem, desk.published().slots().bundle_pem());
                Ok(tonic::Response::new(IstioCertificateResponse { cert_chain }))
            }
            Err(denial) => Err(worded(&denial)),
        }
    }
}

/// From the evidence to the signature.
fn sign(case: &mut Case<'_>, request: &tonic::Request<IstioCertificateRequest>) -> Result<Issued, Denial> {
    let who = case.identify(request.metadata().get("authorization").map(MetadataValue::as_bytes))?;
    let request = request.get_ref();
    case.asks_for(
        u64::try_from(request.validity_duration).ok().filter(|it| *it > 0).map(Duration::from_secs),
    );
    case.sign(&who, request.csr.as_bytes())
}

/// The certificates of the chain one by one, and behind them the roots as one text, which is how Istio's clients take it.
fn whole_chain(chain: &str, roots: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let whole = |part: &&str| part.contains(END);
    let chain = chain.split_inclusive(END).filter(whole).map(|part| format!("{}\n", part.trim_start()));
    chain.chain([roots.to_owned()]).collect()
}

fn worded(denial: &Denial) -> Status {
    let detail = denial.to_string();
    let status = match denial {
        Denial::Evidence(Refusal::NotSpent(_)) => Status::unavailable(""),
        Denial::Evidence(_) | Denial::RefusedOnPurpose => Status::unauthenticated("the evidence was refused"),
        Denial::AddressRate(_) | Denial::IdentityRate { .. } | Denial::BusyOnPurpose => {
            Status::resource_exhausted(detail)
        }
        Denial::TooLarge | Denial::Lifetime(_) | Denial::Broken(_) | Denial::Csr(_) => {
            Status::invalid_argument(detail)
        }
        Denial::Signing(_) | Denial::ErrorOnPurpose => Status::internal(""),
    };
    match denial.retry_after() {
        Some(seconds) => {
            let mut metadata = MetadataMap::new();
            metadata.insert("retry-after", MetadataValue::from(seconds));
            Status::with_metadata(status.code(), status.message(), metadata)
        }
        None => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_comes_one_by_one_and_the_roots_last() {
        let pem = |name: &str| format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n");
        let chain = whole_chain(&(pem("leaf") + &pem("intermediate")), &(pem("root") + &pem("next")));
        assert_eq!(chain, [pem("leaf"), pem("intermediate"), pem("root") + &pem("next")]);
    }

    #[test]
    fn a_refused_caller_learns_nothing_of_its_evidence() {
        let status = worded(&Denial::Evidence(Refusal::Nothing));
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::Unauthenticated, "the evidence was refused")
        );
    }
}
