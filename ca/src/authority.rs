//! What a certificate that the CA issues looks like, and the signing of it.
//!
//! The profile is fixed (X509-SVID 2 to 5, RFC 5280 4.2): the names come from the caller's evidence, the lifetime from
//! the settings, and of the request nothing but the public key.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pillion_mesh::duration;
use pillion_mesh::spiffe::SpiffeId;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::csr::Csr;
use crate::keeper::{Keeper, Live};
use crate::keys::KeyKind;
use crate::slots::{BACKDATE, Signer, Slots, random_serial};

/// How long the CA's own server certificate is valid, at most; it is renewed at half of its life.
pub(crate) const SERVER_VALIDITY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long workload certificates last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WorkloadTtl {
    /// Where the caller does not say.
    pub(crate) default: Duration,
    /// However long the caller asks for.
    pub(crate) max: Duration,
}

impl WorkloadTtl {
    /// The lifetime that is granted to a request for `wish`.
    pub(crate) fn grant(self, wish: Option<Duration>) -> Duration {
        wish.unwrap_or(self.default).min(self.max)
    }
}

/// Signs for one trust domain.
pub(crate) struct Authority {
    live: Arc<Live>,
    /// Notes down what is granted; none where nothing outlives the process.
    keeper: Option<Arc<Keeper>>,
    ttl: WorkloadTtl,
    clock: Clock,
}

/// A workload's new certificate.
#[derive(Debug)]
pub(crate) struct Issued {
    /// The chain in PEM, leaf first, without the root.
    pub(crate) chain_pem: String,
    /// Serial number in lower-case hexadecimal.
    pub(crate) serial: String,
    /// The end of its validity.
    pub(crate) not_after: SystemTime,
}

/// The CA's own server certificate; the key is never written down.
pub(crate) struct ServerCertificate {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key: Zeroizing<Vec<u8>>,
    /// The end of its validity, which is that of its signer at the latest.
    pub(crate) not_after: SystemTime,
}

impl ServerCertificate {
    pub(crate) fn key(&self) -> PrivateKeyDer<'_> {
        PrivatePkcs8KeyDer::from(self.key.as_slice()).into()
    }
}

/// Why nothing was signed, though the request was right.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    #[error("the signing certificate expired at {}; the CA needs a new root", pillion_mesh::wire::rfc3339::print(*.0))]
    SignerExpired(SystemTime),
    #[error(
        "the key of the signing certificate is somebody else's: write signer: with the files that hold it"
    )]
    NoKey,
    #[error("signing failed: {0}")]
    Signing(#[from] rcgen::Error),
}

impl Authority {
    /// Signs with what the keeper keeps.
    pub(crate) fn new(keeper: Arc<Keeper>, ttl: WorkloadTtl, clock: Clock) -> Self {
        Authority { live: Arc::clone(keeper.live()), keeper: Some(keeper), ttl, clock }
    }

    /// Signs with these signers for ever.
    pub(crate) fn fixed(slots: Slots, ttl: WorkloadTtl, clock: Clock) -> Self {
        Authority { live: Live::new(slots), keeper: None, ttl, clock }
    }

    /// Tells the time that certificates live in.
    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    /// The signers in force now.
    pub(crate) fn slots(&self) -> Arc<Slots> {
        self.live.get()
    }

    pub(crate) fn ttl(&self) -> WorkloadTtl {
        self.ttl
    }

    /// Signs the request's key for the identity that the evidence proved.
    pub(crate) fn issue(
        &self,
        id: &SpiffeId,
        csr: &Csr,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        let mut params = leaf_params(vec![SanType::URI(id.as_str().try_into()?)])?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if csr.kind == KeyKind::Rsa {
            // TLS 1.2 peers that choose RSA key exchange ask for it; Istio sets it too.
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        let ttl = self.noted(ttl);
        let slots = self.slots();
        let (certificate, not_after) = sign(slots.current(), &mut params, &csr.key, ttl, now)?;
        let serial = params.serial_number.map(|serial| hex(serial.as_ref())).unwrap_or_default();
        let chain_pem = certificate.pem() + &slots.current().chain_pem();
        Ok(Issued { chain_pem, serial, not_after })
    }

    /// The life that can be granted: a longer one than ever before is noted down first, since a rotation waits for the
    /// longest; what cannot be noted down is not granted.
    fn noted(&self, ttl: Duration) -> Duration {
        let longest = self.slots().longest();
        let Some(keeper) = self.keeper.as_ref().filter(|_keeper| ttl > longest) else { return ttl };
        match keeper.grant(ttl) {
            Ok(()) => ttl,
            Err(error) => {
                let granted = duration::print(longest);
                tracing::error!(error = %error, granted, "a longer life than ever before cannot be noted down; granting less");
                longest
            }
        }
    }

    /// Makes a key and a certificate for the CA's own API under these DNS names and addresses.
    pub(crate) fn issue_server(
        &self,
        names: &[ServerName<'static>],
        now: SystemTime,
    ) -> Result<ServerCertificate, IssueError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let names = names.iter().map(subject_alt_name).collect::<Result<_, _>>()?;
        let mut params = leaf_params(names)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let slots = self.slots();
        let signer = slots.longest_known(now, SERVER_VALIDITY);
        let (certificate, not_after) = sign(signer, &mut params, &key, SERVER_VALIDITY, now)?;
        let chain = std::iter::once(certificate.into()).chain(signer.chain().cloned()).collect();
        Ok(ServerCertificate { chain, key: Zeroizing::new(key.serialize_der()), not_after })
    }
}

fn sign(
    signer: &Signer,
    params: &mut CertificateParams,
    key: &impl PublicKeyData,
    ttl: Duration,
    now: SystemTime,
) -> Result<(rcgen::Certificate, SystemTime), IssueError> {
    if signer.not_after() <= now {
        return Err(IssueError::SignerExpired(signer.not_after()));
    }
    let not_after = now.checked_add(ttl).unwrap_or(signer.not_after()).min(signer.not_after());
    // X.509 has no fractions of a second.
    let not_after = OffsetDateTime::from(not_after).replace_nanosecond(0).unwrap_or(not_after.into());
    params.not_before = OffsetDateTime::from(now - BACKDATE);
    params.not_after = not_after;
    let issuer = signer.issuer().ok_or(IssueError::NoKey)?;
    Ok((params.signed_by(key, issuer)?, not_after.into()))
}

/// What every leaf has: no subject, so that the SAN is critical (RFC 5280 4.2.1.6), cA FALSE written out, key
/// identifiers, digitalSignature, a random serial number.
fn leaf_params(names: Vec<SanType>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(random_serial()?);
    Ok(params)
}

fn subject_alt_name(name: &ServerName<'_>) -> Result<SanType, rcgen::Error> {
    Ok(match name {
        ServerName::IpAddress(address) => SanType::IpAddress(IpAddr::from(*address)),
        name => SanType::DnsName(name.to_str().as_ref().try_into()?),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
