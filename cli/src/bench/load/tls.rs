//! TLS of the load generator and of the servers without a proxy: one version, one suite, one group, so that a figure is that
//! of one handshake and not of a mixture.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::app::{REST, answer, listen_at};
use super::job::{Door, Files, ServerTls, Shape, Tls};

/// The name in the server's certificate, beside its SPIFFE ID, for those who can verify names only.
pub(super) const SERVER_NAME: &str = "server";

/// What a mesh's sidecars offer.
const ALPN: &[u8] = b"istio";

/// Sessions remembered, more than are open at once.
const SESSIONS: usize = 1024;

/// The longest that a handshake may take at a door.
const TOO_LONG: Duration = Duration::from_secs(20);

/// What the load generator connects with.
pub(super) fn connector(tls: &Tls) -> anyhow::Result<TlsConnector> {
    Ok(TlsConnector::from(Arc::new(client_config(tls)?)))
}

/// The client's side.
pub(crate) fn client_config(tls: &Tls) -> anyhow::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(provider(tls.shape)))
        .with_protocol_versions(&[version(tls.shape)])?
        .with_root_certificates(roots(&tls.files)?);
    let mut config = if tls.mutual {
        let (chain, key) = identity(&tls.files)?;
        builder.with_client_auth_cert(chain, key)?
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption =
        if tls.resumed { Resumption::in_memory_sessions(SESSIONS) } else { Resumption::disabled() };
    Ok(config)
}

/// Serves all doors until the process is killed.
pub(super) async fn serve(doors: Vec<Door>) -> anyhow::Result<()> {
    let mut all = tokio::task::JoinSet::new();
    for door in doors {
        let acceptor = door.tls.as_ref().map(server_config).transpose()?;
        let acceptor = acceptor.map(|config| TlsAcceptor::from(Arc::new(config)));
        let listener = listen_at(door.listen)?;
        all.spawn(open(listener, acceptor));
    }
    println!("listening at {} doors", all.len());
    all.join_all().await;
    Ok(())
}

async fn open(listener: tokio::net::TcpListener, acceptor: Option<TlsAcceptor>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(REST).await;
            continue;
        };
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            stream.set_nodelay(true)?;
            match acceptor {
                None => answer(stream).await,
                Some(acceptor) => {
                    let accepted = tokio::time::timeout(TOO_LONG, acceptor.accept(stream)).await;
                    answer(accepted.map_err(|_late| io::ErrorKind::TimedOut)??).await
                }
            }
        });
    }
}

/// The server's side.
pub(crate) fn server_config(tls: &ServerTls) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(provider(tls.shape));
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version(tls.shape)])?;
    let builder = if tls.mutual {
        let roots = Arc::new(roots(&tls.files)?);
        builder
            .with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(roots, provider).build()?)
    } else {
        builder.with_no_client_auth()
    };
    let (chain, key) = identity(&tls.files)?;
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(SESSIONS);
    Ok(config)
}

fn version(shape: Shape) -> &'static SupportedProtocolVersion {
    if shape.tls12 { &TLS12 } else { &TLS13 }
}

fn provider(shape: Shape) -> CryptoProvider {
    let cipher_suites = if shape.tls12 {
        vec![
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ]
    } else {
        vec![cipher_suite::TLS13_AES_128_GCM_SHA256]
    };
    let group = if shape.post_quantum { kx_group::X25519MLKEM768 } else { kx_group::X25519 };
    CryptoProvider { cipher_suites, kx_groups: vec![group], ..default_provider() }
}

fn roots(files: &Files) -> anyhow::Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(&files.bundle)? {
        store.add(certificate)?;
    }
    Ok(store)
}

fn identity(files: &Files) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let key =
        PrivateKeyDer::from_pem_file(&files.key).with_context(|| format!("read {}", files.key.display()))?;
    Ok((certificates(&files.certificate)?, key))
}

fn certificates(path: &std::path::Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .with_context(|| format!("read {}", path.display()))
}

/// Counts what passes on the wire.
#[derive(Debug)]
pub(super) struct Counted<S> {
    stream: S,
    sent: u64,
    received: u64,
}

impl<S> Counted<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, sent: 0, received: 0 }
    }

    /// Sent, received.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.sent, self.received)
    }
}

fn count(counter: &mut u64, bytes: usize) {
    *counter = counter.saturating_add(u64::try_from(bytes).unwrap_or_default());
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, into);
        count(&mut self.received, into.filled().len().saturating_sub(before));
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            count(&mut self.sent, written);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
