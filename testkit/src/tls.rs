//! TLS peers of a mesh that are not pillion: rustls as it comes, trusting the mesh's root and asking for no name.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::authority::{Held, TestCa};

/// TLS 1.2 alone.
pub static TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
/// TLS 1.3 alone.
pub static TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The provider that every peer here uses.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A mesh client: shows `held` if there is one, accepts any name under the root of `mesh`, offers `istio`. Unlike
/// pillion it would resume sessions if a server let it.
#[must_use]
pub fn client(mesh: &TestCa, held: Option<&Held>) -> ClientConfig {
    client_of_versions(mesh, held, rustls::DEFAULT_VERSIONS)
}

/// The same, with only these versions of TLS.
#[must_use]
pub fn client_of_versions(
    mesh: &TestCa,
    held: Option<&Held>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("versions that the provider has")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyNameUnderRoot { roots: mesh.root_store() }));
    let mut config = match held {
        Some(held) => builder.with_client_cert_resolver(shown(held)),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"istio".to_vec()];
    config
}

/// A mesh server: shows `held`, asks for a certificate under the root of `mesh`, answers `istio`.
#[must_use]
pub fn server(mesh: &TestCa, held: &Held) -> ServerConfig {
    server_of_versions(mesh, held, rustls::DEFAULT_VERSIONS)
}

/// The same, with only these versions of TLS.
#[must_use]
pub fn server_of_versions(
    mesh: &TestCa,
    held: &Held,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(mesh.root_store()), provider())
        .build()
        .expect("a root");
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("versions that the provider has")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(shown(held));
    config.alpn_protocols = vec![b"istio".to_vec()];
    config
}

/// A server outside the mesh: shows `held`, asks for a certificate only where `clients` may vouch for one, answers what
/// servers of the web do.
#[must_use]
pub fn outside_server(held: &Held, clients: Option<&TestCa>) -> ServerConfig {
    outside_server_of_versions(held, clients, rustls::DEFAULT_VERSIONS)
}

/// The same, with only these versions of TLS.
#[must_use]
pub fn outside_server_of_versions(
    held: &Held,
    clients: Option<&TestCa>,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("versions that the provider has");
    let mut config = match clients {
        Some(clients) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(clients.root_store()), provider());
            builder.with_client_cert_verifier(verifier.build().expect("a root"))
        }
        None => builder.with_no_client_auth(),
    }
    .with_cert_resolver(shown(held));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// The same, content without the certificate that it asks for.
#[must_use]
pub fn outside_server_content_without(held: &Held, clients: &TestCa) -> ServerConfig {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(clients.root_store()), provider())
        .allow_unauthenticated()
        .build()
        .expect("a root");
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .expect("versions that the provider has")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(shown(held))
}

/// Shows whatever is held, also what rustls itself would find broken or not to fit its key.
fn shown(held: &Held) -> Arc<SingleCertAndKey> {
    let key = any_supported_type(&held.key).expect("a key that rustls can use");
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(held.chain.clone(), key)))
}

/// The name to hand to rustls where the server's name does not matter.
#[must_use]
pub fn any_name() -> ServerName<'static> {
    ServerName::try_from("outbound_.8080_._.backend.default.svc.cluster.local").expect("a DNS name")
}

/// Checks the path to the root and the proof of possession, and no name: a SPIFFE leaf has none that rustls knows.
#[derive(Debug)]
struct AnyNameUnderRoot {
    roots: RootCertStore,
}

impl ServerCertVerifier for AnyNameUnderRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        EndEntityCert::try_from(end_entity)
            .and_then(|leaf| {
                let usage = KeyUsage::server_auth();
                leaf.verify_for_usage(
                    algorithms().all,
                    &self.roots.roots,
                    intermediates,
                    now,
                    usage,
                    None,
                    None,
                )
                .map(|_path| ServerCertVerified::assertion())
            })
            .map_err(|_error| Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}
