//! One HTTPS request for an issuer's keys: bounded, without redirects, its server verified. The deadline is the caller's.

use std::path::PathBuf;
use std::sync::Arc;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, spawn_blocking};
use tokio_rustls::TlsConnector;

use super::source::{self, LONGEST};

/// Longest head of an answer.
const HEAD_LIMIT: usize = 16 * 1024;

/// A URL with what its server is verified by.
#[derive(Debug)]
pub(super) struct Origin {
    url: String,
    host: String,
    port: u16,
    path: String,
    ca_file: Option<PathBuf>,
}

impl Origin {
    /// Reads `https://host[:port]/path`.
    pub(super) fn parse(url: &str, ca_file: Option<PathBuf>) -> Option<Self> {
        let uri: Uri = url.parse().ok().filter(|uri: &Uri| uri.scheme_str() == Some("https"))?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        ServerName::try_from(host.as_str()).ok()?;
        Some(Origin {
            url: url.to_owned(),
            host,
            port: authority.port_u16().unwrap_or(443),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            ca_file,
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

/// Fetches the body.
///
/// # Errors
/// What was expected and what was seen.
pub(super) async fn fetch(origin: &Origin) -> Result<Vec<u8>, String> {
    let config = client_config(origin.ca_file.clone()).await?;
    let name = ServerName::try_from(origin.host.clone()).map_err(|error| error.to_string())?;
    let stream = TcpStream::connect((origin.host.as_str(), origin.port))
        .await
        .map_err(|error| format!("cannot reach {}:{}: {error}", origin.host, origin.port))?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| format!("TLS with {}: {error}; caFile names its roots", origin.host))?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_LIMIT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut driver = JoinSet::new(); // aborts with this request
    driver.spawn(connection);
    let authority =
        if origin.host.contains(':') { format!("[{}]", origin.host) } else { origin.host.clone() };
    let request = Request::get(&origin.path)
        .header(HOST, format!("{authority}:{}", origin.port))
        .header(ACCEPT, "application/json, application/jwk-set+json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("expected 200, got {}; redirects are not followed", answer.status()));
    }
    let longest = usize::try_from(LONGEST).unwrap_or(usize::MAX);
    let body =
        Limited::new(answer.into_body(), longest).collect().await.map_err(|error| error.to_string())?;
    Ok(body.to_bytes().to_vec())
}

/// The files are read anew each time: roots change, and it is done every few minutes.
async fn client_config(ca_file: Option<PathBuf>) -> Result<ClientConfig, String> {
    let roots = spawn_blocking(move || roots(ca_file)).await.map_err(|error| error.to_string())??;
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn roots(ca_file: Option<PathBuf>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() {
            Err("the system has no roots; name them by caFile".to_owned())
        } else {
            Ok(roots)
        };
    };
    let fault = |error: String| format!("caFile {}: {error}", path.display());
    let pem = source::read(&path).map_err(|error| fault(error.to_string()))?;
    for root in CertificateDer::pem_slice_iter(&pem) {
        let root = root.map_err(|error| fault(error.to_string()))?;
        roots.add(root).map_err(|error| fault(error.to_string()))?;
    }
    if roots.is_empty() {
        Err(fault("expected certificates in PEM, found none".to_owned()))
    } else {
        Ok(roots)
    }
}
