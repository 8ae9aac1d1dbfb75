//! What this proxy asks of the CA, and what it checks of the answer before it uses it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use pillion_mesh::spiffe::SpiffeId;
use pillion_mesh::wire::{Problem, rfc3339};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use super::https::{self, Dial, HttpsError, Peer, Trust};
use super::key::NewKey;
use super::{CaSource, Own};
use crate::files::read_bounded;
use crate::tls::{BundleError, Bundles, ChainError, Clock, Credentials, CredentialsError, TlsSettings};

/// The longest file that is read: tokens and bundles are far smaller.
pub(super) const FILE_LIMIT: u64 = 1024 * 1024;
/// How much of the CA's words goes into our log.
const DETAIL_LIMIT: usize = 300;

/// The CA as seen by one workload.
pub(super) struct Authority {
    own: Own,
    source: CaSource,
    dial: Dial,
    tls: TlsSettings,
    clock: Clock,
}

/// What proves to the CA who is asking.
#[derive(Debug, Clone)]
pub(super) enum Evidence {
    /// The token file, read at the moment of use.
    Token,
    /// The certificate that is to be renewed.
    Certificate(Arc<Credentials>),
}

/// Why the CA gave nothing that can be used. Names no secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum CaError {
    /// A file of ours.
    #[error("{what} {path} cannot be used: {error}; {cure}")]
    File {
        /// What it is for.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
        /// What helps.
        cure: &'static str,
    },
    /// The way to the CA.
    #[error("the CA at {address}: {error}{cure}")]
    Https {
        /// Host and port.
        address: String,
        /// What failed.
        error: HttpsError,
        /// What helps.
        cure: &'static str,
    },
    /// The CA said no.
    #[error("the CA at {address} answered {status}{said}{cure}")]
    Refused {
        /// Host and port.
        address: String,
        /// The HTTP status.
        status: StatusCode,
        /// Its words, behind a colon; none where it adds nothing to the status.
        said: String,
        /// What helps.
        cure: &'static str,
    },
    /// The CA said something that cannot be right.
    #[error("the answer of the CA at {address} cannot be used: {fault}")]
    Answer {
        /// Host and port.
        address: String,
        /// Expected and seen.
        fault: String,
    },
    /// The crypto library failed.
    #[error("no key could be made: {0}")]
    Key(String),
    /// The attempt took too long.
    #[error("the CA at {address} did not answer within {seconds} s")]
    TooSlow {
        /// Host and port.
        address: String,
        /// The limit.
        seconds: u64,
    },
}

impl CaError {
    /// Whether the CA may have looked at our certificate and not accepted it, so that the token may help. A connection
    /// that broke counts too: a reset can overtake the alert.
    pub(super) fn refuses_certificate(&self) -> bool {
        match self {
            CaError::Refused { status, .. } => {
                matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            }
            CaError::Https { error: HttpsError::Alert(_) | HttpsError::Broken(_), .. } => true,
            _ => false,
        }
    }
}

impl Authority {
    pub(super) fn new(own: Own, source: CaSource, dial: Dial, tls: TlsSettings, clock: Clock) -> Authority {
        Authority { own, source, dial, tls, clock }
    }

    /// Host and port, for messages.
    pub(super) fn address(&self) -> String {
        format!("{}:{}", https::url_host(&self.source.host), self.source.port)
    }

    /// A new key of the configured kind.
    ///
    /// # Errors
    /// `Key`.
    pub(super) async fn new_key(&self) -> Result<NewKey, CaError> {
        NewKey::make(self.own.id.clone(), self.source.key_type).await.map_err(CaError::Key)
    }

    /// The bundle file: the first trust, before the CA has told its bundle.
    ///
    /// # Errors
    /// `File`.
    pub(super) async fn first_trust(&self) -> Result<Bundles, CaError> {
        let path = &self.source.bundle_file;
        let fault = |error: &dyn ToString| CaError::File {
            what: "the bundle file",
            path: path.clone(),
            error: error.to_string(),
            cure: "the CA writes it (its bundleFile)",
        };
        let pem = read_file(path.clone()).await.map_err(|error| fault(&error))?;
        self.own.bundles(&pem).map_err(|error| fault(&error))
    }

    /// Has `key` certified, and learns the bundle of the same CA.
    ///
    /// # Errors
    /// [`CaError`]; what comes back has been checked to be ours, valid now, and to lead to the bundle.
    pub(super) async fn certify(
        &self,
        key: &NewKey,
        evidence: &Evidence,
        trusted: &Bundles,
        generation: u64,
    ) -> Result<Credentials, CaError> {
        let request = self.signing_request(key, evidence).await?;
        let shown = match evidence {
            Evidence::Token => None,
            Evidence::Certificate(current) => Some(current.shown()),
        };
        let (status, chain) = self.send(trusted, shown, request).await?;
        if status != StatusCode::CREATED {
            return Err(self.refused(status, &chain));
        }
        let bundles = self.bundle(trusted).await?;
        self.judge(&chain, key, bundles, generation)
    }

    /// Asks the CA, known by `trusted`, for the bundle of our trust domain.
    ///
    /// # Errors
    /// [`CaError`].
    pub(super) async fn bundle(&self, trusted: &Bundles) -> Result<Bundles, CaError> {
        let (status, pem) =
            self.send(trusted, None, self.request(Method::GET, "/v1/bundle.pem", Bytes::new())?).await?;
        if status != StatusCode::OK {
            return Err(self.refused(status, &pem));
        }
        self.own.bundles(&pem).map_err(|error: BundleError| self.unusable(format!("its bundle: {error}")))
    }

    async fn signing_request(
        &self,
        key: &NewKey,
        evidence: &Evidence,
    ) -> Result<Request<Full<Bytes>>, CaError> {
        let path = format!("/v1/certificates?ttl={}s", self.source.ttl.as_secs().max(1));
        let mut request = self.request(Method::POST, &path, Bytes::from(key.request.clone()))?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-pem-file"));
        if let Evidence::Token = evidence {
            headers.insert(AUTHORIZATION, self.bearer().await?);
        }
        Ok(request)
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, CaError> {
        Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address())
            .body(Full::new(body))
            .map_err(|error| self.unusable(format!("no request can be made for it: {error}")))
    }

    async fn bearer(&self) -> Result<HeaderValue, CaError> {
        let path = &self.source.token_file;
        let fault = |error: String| CaError::File {
            what: "the token file",
            path: path.clone(),
            error,
            cure: "the CA delivers it (tokenFile of the workload's registration)",
        };
        let token = read_file(path.clone()).await.map_err(|error| fault(error.to_string()))?;
        let token = token.trim_ascii();
        if token.is_empty() {
            return Err(fault("it is empty".to_owned()));
        }
        let bearer = Zeroizing::new([b"Bearer ", token].concat());
        let mut value = HeaderValue::from_bytes(&bearer)
            .map_err(|_| fault("it holds more than one line of text".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn send(
        &self,
        trusted: &Bundles,
        shown: Option<Arc<rustls::sign::SingleCertAndKey>>,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), CaError> {
        let now = self.clock.now();
        let roots = trusted.roots(&self.own.id.trust_domain()).unwrap_or_default();
        let roots = roots.iter().filter(|root| root.is_valid_at(now)).map(|root| root.der.clone()).collect();
        let peer = Peer { host: &self.source.host, trust: Trust::Roots(roots), shown };
        https::send(&self.dial, peer, self.tls, &self.clock, request).await.map_err(|error| CaError::Https {
            address: self.address(),
            cure: match error {
                HttpsError::Unreachable(_) => "; is it running?",
                HttpsError::OtherName(_) => {
                    "; dial it by a name of its certificate (address), or give it this one (its dnsNames)"
                }
                HttpsError::NotTls => "; is this the port of its HTTPS API?",
                HttpsError::Untrusted(_) | HttpsError::NoTrust(_) => {
                    "; if the CA was made anew, deliver its new bundle (bundleFile) and restart this proxy"
                }
                _ => "",
            },
            error,
        })
    }

    /// The right identity, our key, valid now, and a path to the bundle.
    fn judge(
        &self,
        chain: &[u8],
        key: &NewKey,
        bundles: Bundles,
        generation: u64,
    ) -> Result<Credentials, CaError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| self.unusable(format!("expected a PEM chain: {error}")))?;
        let credentials = Credentials::new(chain, &key.der(), bundles, self.tls, &self.clock, generation)
            .map_err(|error: CredentialsError| self.unusable(error.to_string()))?;
        check_ours(&credentials, &self.own.id, &self.clock).map_err(|fault| self.unusable(fault))?;
        Ok(credentials)
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> CaError {
        let said = match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => match problem.detail {
                Some(detail) => format!(": {detail}"),
                None => String::new(),
            },
            Err(_) => format!(": {}", String::from_utf8_lossy(body)),
        };
        let said = said.chars().take(DETAIL_LIMIT).flat_map(char::escape_debug).collect();
        let cure = if status == StatusCode::UNAUTHORIZED {
            "; its log says why; the token file must hold what it delivered for this workload (its registrations)"
        } else {
            ""
        };
        CaError::Refused { address: self.address(), status, said, cure }
    }

    fn unusable(&self, fault: String) -> CaError {
        CaError::Answer { address: self.address(), fault }
    }
}

/// Checks that a certificate, wherever it comes from, is what this proxy may show: of the wanted identity, valid by our
/// clock, and one that a peer with our bundle would accept.
///
/// # Errors
/// What was expected and what was seen.
pub(super) fn check_ours(credentials: &Credentials, id: &SpiffeId, clock: &Clock) -> Result<(), String> {
    let svid = &credentials.svid;
    if svid.id != *id {
        return Err(format!("expected a certificate of {id}; it is one of {}", svid.id));
    }
    let now = clock.now();
    if !credentials.is_valid_at(now) {
        return Err(format!(
            "the certificate is valid from {} until {}; our clock says {}: compare both clocks",
            rfc3339::print(svid.not_before),
            rfc3339::print(svid.not_after),
            rfc3339::print(now)
        ));
    }
    credentials.check_own_chain().map_err(|error: ChainError| {
        format!("its certificate does not verify by its own bundle: {}", error.detail)
    })
}

/// Reads a file that may hold a secret, at most [`FILE_LIMIT`].
///
/// # Errors
/// What the system says, or `FileTooLarge`.
pub(super) async fn read_file(path: PathBuf) -> io::Result<Zeroizing<Vec<u8>>> {
    spawn_blocking(move || read_bounded(&path, FILE_LIMIT)).await?
}
