//! One HTTPS request to the CA, or to whoever serves a trust bundle, with every size bounded. The deadline is the caller's.

use std::error::Error as StdError;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::net::Keepalive;
use crate::net::dial::{DialOptions, connect};
use crate::tls::{Clock, TlsSettings, provider};

/// The longest answer: a chain or a bundle of dozens of certificates.
pub(super) const ANSWER_LIMIT: usize = 64 * 1024;
/// The longest head of an answer.
const HEAD_LIMIT: usize = 16 * 1024;
/// How long one address of the CA may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const KEEPALIVE: Keepalive =
    Keepalive { time: Duration::from_secs(60), interval: Duration::from_secs(60), retries: 3 };

/// A byte stream to the CA.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

type Dialling = Pin<Box<dyn Future<Output = io::Result<Box<dyn Wire>>> + Send>>;

/// Opens a byte stream to the CA.
pub(super) type Dial = Arc<dyn Fn() -> Dialling + Send + Sync>;

/// Dials the CA by TCP, every address of its name in turn, past our own interception.
pub(super) fn dial(host: &str, port: u16, mark: Option<u32>) -> Dial {
    let host: Arc<str> = bare(host).into();
    Arc::new(move || {
        let host = host.clone();
        Box::pin(async move {
            let options = DialOptions {
                source: None,
                transparent: false,
                mark,
                keepalive: KEEPALIVE,
                timeout: CONNECT_TIMEOUT,
            };
            let mut failure = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
            for address in lookup_host((&*host, port)).await? {
                match connect(address, &options).await {
                    Ok(stream) => return Ok(Box::new(stream) as Box<dyn Wire>),
                    Err(error) => failure = io::Error::new(error.kind(), format!("{address}: {error}")),
                }
            }
            Err(failure)
        })
    })
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpsError {
    /// No connection.
    #[error("it cannot be reached: {0}")]
    Unreachable(io::Error),
    /// Nothing to verify its certificate with.
    #[error("the trust bundle cannot verify any server now: {0}")]
    NoTrust(String),
    /// Its certificate is for others.
    #[error("its server certificate was refused: {0}")]
    OtherName(rustls::Error),
    /// Its certificate was not accepted.
    #[error("its server certificate was refused: {0}")]
    Untrusted(rustls::Error),
    /// It did not accept our certificate or our TLS.
    #[error("it ended the connection with the TLS alert {0:?}")]
    Alert(rustls::AlertDescription),
    /// It answers by another protocol.
    #[error("it does not speak TLS")]
    NotTls,
    /// Anything else on the way.
    #[error("the connection failed: {0}")]
    Broken(String),
    /// An answer over [`ANSWER_LIMIT`].
    #[error("its answer is longer than {ANSWER_LIMIT} bytes")]
    TooLarge,
}

/// How to know the server, and what to show it.
pub(super) struct Peer<'a> {
    /// Its name or address.
    pub(super) host: &'a str,
    /// What its certificate must be.
    pub(super) trust: Trust,
    /// Our own certificate, where it is the evidence.
    pub(super) shown: Option<Arc<SingleCertAndKey>>,
}

/// What a server's certificate must be.
pub(super) enum Trust {
    /// One for the host, that leads to one of these roots.
    Roots(Vec<CertificateDer<'static>>),
    /// One that somebody else judges.
    Verifier(Arc<dyn ServerCertVerifier>),
}

/// Sends `request` over a connection of its own and reads the whole answer.
///
/// # Errors
/// [`HttpsError`].
pub(super) async fn send(
    dial: &Dial,
    peer: Peer<'_>,
    settings: TlsSettings,
    clock: &Clock,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), HttpsError> {
    let name = ServerName::try_from(bare(peer.host).to_owned())
        .map_err(|_| HttpsError::NoTrust(format!("{:?} is neither a DNS name nor an address", peer.host)))?;
    let config = client_config(peer, settings, clock)?;
    let stream = dial().await.map_err(HttpsError::Unreachable)?;
    let stream =
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| of_io(&error))?;

    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_LIMIT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| of_hyper(&error))?;
    let mut driver = JoinSet::new(); // aborts with this request
    driver.spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| of_hyper(&error))?;
    let status = answer.status();
    let body =
        Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await.map_err(|error| match error
            .downcast_ref::<hyper::Error>(
        ) {
            Some(error) => of_hyper(error),
            None => HttpsError::TooLarge,
        })?;
    Ok((status, body.to_bytes()))
}

/// Nothing outlives the request.
fn client_config(peer: Peer<'_>, settings: TlsSettings, clock: &Clock) -> Result<ClientConfig, HttpsError> {
    let no_trust = |error: &dyn ToString| HttpsError::NoTrust(error.to_string());
    let verifier: Arc<dyn ServerCertVerifier> = match peer.trust {
        Trust::Verifier(verifier) => verifier,
        Trust::Roots(certificates) => {
            let mut roots = RootCertStore::empty();
            for root in certificates {
                roots.add(root).map_err(|error| no_trust(&error))?;
            }
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
                .build()
                .map_err(|error| no_trust(&error))?
        }
    };
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(clock.clone()))
        .with_protocol_versions(settings.versions())
        .map_err(|error| no_trust(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match peer.shown {
        Some(shown) => builder.with_client_cert_resolver(shown),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn of_io(error: &io::Error) -> HttpsError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => HttpsError::Alert(*alert),
        Some(
            fault @ rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ),
        ) => HttpsError::OtherName(fault.clone()),
        Some(fault @ rustls::Error::InvalidCertificate(_)) => HttpsError::Untrusted(fault.clone()),
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => HttpsError::NotTls,
        _ => HttpsError::Broken(error.to_string()),
    }
}

/// hyper wraps what the stream failed with; in TLS 1.3 the alert to our certificate comes only with the answer.
fn of_hyper(error: &hyper::Error) -> HttpsError {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            return of_io(io);
        }
        cause = current.source();
    }
    HttpsError::Broken(error.to_string())
}

/// A host without the brackets that an IPv6 address has in a URL.
fn bare(host: &str) -> &str {
    host.trim_matches(['[', ']'])
}

/// A host as it stands in a URL: an IPv6 address in brackets.
pub(super) fn url_host(host: &str) -> String {
    match bare(host).parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_owned(),
    }
}
