//! Turns a handshake that failed into a reason and words, and lets the alert that tells the peer get out.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::time::Duration;

use pillion_mesh::reason::Reason;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::{HandshakeError, TlsSettings};
use crate::net::Leg;

/// How long a peer may take to read our alert and close.
pub(super) const FAREWELL: Duration = Duration::from_millis(200);

/// What the other side of a handshake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It dialled us.
    Client,
    /// We dialled it.
    Server,
}

impl Role {
    pub(super) fn name(self) -> &'static str {
        match self {
            Role::Client => "client",
            Role::Server => "server",
        }
    }
}

tokio::task_local! {
    /// Why the verifier refused the peer of the handshake that this task runs. rustls carries from a verifier to the
    /// caller either the alert that fits or an error of ours, never both; the alert goes through rustls.
    static REFUSAL: RefCell<Option<HandshakeError>>;
}

/// Runs a handshake so that [`remember`] reaches [`explain`].
pub(super) async fn attending<F: Future>(handshake: F) -> F::Output {
    REFUSAL.scope(RefCell::new(None), handshake).await
}

/// Keeps the verifier's words for the handshake that it was called from, if it was called from one.
pub(super) fn remember(refusal: HandshakeError) {
    let _ = REFUSAL.try_with(|slot| slot.replace(Some(refusal)));
}

/// The reason for the log, from what tokio-rustls returned.
pub(super) fn explain(
    error: &io::Error,
    peer: Role,
    local: &dyn fmt::Display,
    settings: TlsSettings,
) -> HandshakeError {
    let name = peer.name();
    let failed = |detail: String| HandshakeError { reason: Reason::HandshakeFailed, detail };
    let Some(fault) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return failed(match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                format!("the {name} closed the connection in the middle of the handshake")
            }
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                format!("the {name} reset the connection in the middle of the handshake")
            }
            _ => format!("the connection to the {name} failed in the middle of the handshake: {error}"),
        });
    };
    match fault {
        Error::InvalidCertificate(fault) => {
            REFUSAL.try_with(RefCell::take).ok().flatten().unwrap_or_else(|| unproved(fault, peer))
        }
        Error::NoCertificatesPresented if peer == Role::Client => HandshakeError {
            reason: Reason::NoClientCertificate,
            detail: format!("{local} asks every client for a certificate and got none"),
        },
        Error::AlertReceived(alert) => HandshakeError {
            reason: Reason::PeerRefused,
            detail: format!("the {name} answered {local} with the alert {}", told(*alert)),
        },
        Error::PeerIncompatible(what) => failed(format!(
            "the {name} offers nothing that we speak ({what:?}); we speak {}",
            settings.describe()
        )),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            failed(format!("what the {name} sent is no TLS; does it speak TLS on this port?"))
        }
        Error::PeerMisbehaved(what) => failed(format!("the {name} broke the rules of TLS ({what:?})")),
        other => failed(format!("with the {name}: {other}")),
    }
}

/// A certificate that the verifier passed, or never saw, and of which the key was not proved.
fn unproved(fault: &CertificateError, peer: Role) -> HandshakeError {
    HandshakeError {
        reason: Reason::CertificateInvalid,
        detail: format!("the {} did not prove that it holds its certificate's key: {fault}", peer.name()),
    }
}

/// An alert in words: its name in RFC 8446 6, and what it most likely says of us.
pub(crate) fn told(alert: AlertDescription) -> String {
    alert_name(alert) + hint(alert)
}

/// What a peer says that does not accept the dates of our certificate.
pub(super) const NOT_VALID_NOW: &str = ": by its clock our certificate is not valid now";

/// The alert by its name in RFC 8446 6: `unknown_ca`.
fn alert_name(alert: AlertDescription) -> String {
    let mut name = String::new();
    let mut previous = 'A';
    for letter in format!("{alert:?}").chars() {
        if letter.is_uppercase() && previous.is_lowercase() {
            name.push('_');
        }
        name.extend(letter.to_lowercase());
        previous = letter;
    }
    name
}

/// What an alert most likely says of us.
fn hint(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::UnknownCA => ": its bundle does not have our root",
        AlertDescription::CertificateExpired => NOT_VALID_NOW,
        AlertDescription::CertificateRevoked => ": our certificate is on its revocation list",
        AlertDescription::CertificateRequired => ": it wants a certificate and did not get ours",
        AlertDescription::AccessDenied => ": it expected another identity than ours",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown => ": it does not accept our certificate; its log says why",
        AlertDescription::ProtocolVersion => ": it does not speak our versions of TLS",
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
            ": we have no cipher suite or group in common"
        }
        AlertDescription::NoApplicationProtocol => ": it does not know the ALPN protocol that we offer",
        _ => "",
    }
}

/// Lets the alert arrive. A socket that is closed while it holds unread bytes sends a reset, which overtakes the
/// alert; so this side ends its direction and reads the peer's rest, for a moment.
pub(super) async fn farewell<S: AsyncRead + AsyncWrite + Leg + Unpin>(mut stream: S) {
    stream.close_cleanly();
    let parting = async {
        stream.shutdown().await?;
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // A peer that stays or fails loses only the alert.
    let _ = timeout(FAREWELL, parting).await;
}
