//! Why somebody got no certificate: one list for the audit log, the metric and `docs/reference/ca-refusals.md`.
//!
//! The caller learns of refused evidence only that it was refused; the id, and the whole sentence beside it, are for those
//! who run the CA.

macro_rules! refusals {
    ($($variant:ident = $id:literal, $status:literal, $sentence:literal, $cure:literal;)+) => {
        /// Why there is no certificate. The id is stable: logs, metrics and scripts rely on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum RefusalId { $(#[doc = $sentence] $variant,)+ }

        impl RefusalId {
            /// Every one, in the order of the reference page.
            #[cfg(test)]
            const ALL: &'static [RefusalId] = &[$(RefusalId::$variant,)+];

            /// The short stable word that log and metric show.
            pub(crate) fn id(self) -> &'static str { match self { $(RefusalId::$variant => $id,)+ } }

            /// The status of the answer over HTTPS; 0 where the handshake was refused and there is none.
            #[cfg(test)]
            fn status(self) -> u16 { match self { $(RefusalId::$variant => $status,)+ } }

            /// What happened, in one sentence for a person.
            #[cfg(test)]
            fn sentence(self) -> &'static str { match self { $(RefusalId::$variant => $sentence,)+ } }

            /// What most likely helps.
            #[cfg(test)]
            fn cure(self) -> &'static str { match self { $(RefusalId::$variant => $cure,)+ } }
        }
    };
}

refusals! {
    NoEvidence = "no_evidence", 401,
        "The caller showed neither a token nor a certificate.",
        "Give the workload its token file, or renew by the certificate that it has.";
    EvidenceMalformed = "evidence_malformed", 401,
        "The Authorization header holds no bearer token of a form that the CA knows.",
        "Look at the token file: it must hold the token and nothing else.";
    TokenUnknown = "token_unknown", 401,
        "The token was never handed out by this CA, was replaced, or was deleted.",
        "Deliver the present token (tokenFile of the registration), or make a new one: pillion-ca token create.";
    TokenExpired = "token_expired", 401,
        "The token has expired.",
        "Make a new one: pillion-ca token create; compare both clocks if it should still count.";
    TokenReplayed = "token_replayed", 401,
        "A one-time token was shown again after it was used.",
        "Find out who has read it; make a new one for its owner: pillion-ca token create --once.";
    TokenDamaged = "token_damaged", 401,
        "The CA's own record of the token cannot be read.",
        "Look at the state folder and its disk; a restart replaces damaged records of registrations.";
    TokenNotSpent = "token_not_spent", 503,
        "The CA could not write down that a one-time token was used, so it was not used.",
        "Look at the state folder: it must be writable and have space.";
    CertificateRefused = "certificate_refused", 0,
        "The client certificate does not verify, or is no SVID.",
        "Let the workload ask with its token; look at its clock and at the root that its certificate is of.";
    JwtUnknownIssuer = "jwt_unknown_issuer", 401,
        "The JSON Web Token is of an issuer that the settings do not name.",
        "Compare its claim iss with attestation.jwt, letter for letter.";
    JwtNoKey = "jwt_no_key", 401,
        "None of the issuer's keys is the one that the JSON Web Token names, or there are no keys yet.",
        "Look at the issuer's jwks: the log says what was read of it last; new keys are fetched within seconds.";
    JwtInvalid = "jwt_invalid", 401,
        "The JSON Web Token is malformed, of an algorithm that is not accepted, or its signature does not verify.",
        "Look at who made it: an attack, or another issuer under the same name.";
    JwtExpired = "jwt_expired", 401,
        "The JSON Web Token has expired, or does not say when it will.",
        "Let the workload read its token anew before each use; compare both clocks.";
    JwtNotYetValid = "jwt_not_yet_valid", 401,
        "The JSON Web Token is not valid yet.",
        "Compare the issuer's clock with that of the CA.";
    JwtAudience = "jwt_audience", 401,
        "The JSON Web Token is for another audience.",
        "Ask the issuer for a token with the audience of attestation.jwt.";
    JwtSubject = "jwt_subject", 401,
        "The subject of the JSON Web Token is no service account.",
        "Use the token of a service account: system:serviceaccount:NAMESPACE:NAME.";
    ForeignTrustDomain = "foreign_trust_domain", 401,
        "The evidence is of another trust domain.",
        "Ask the CA of that trust domain.";
    NotRegistered = "not_registered", 401,
        "The evidence is good, and its identity is not in registrations.",
        "Add it there and restart the CA, if it shall have a certificate.";
    AddressRate = "address_rate", 429,
        "Too many requests came from one address.",
        "Look for a workload there that asks in a loop; raise limits.addressPerMinute if many live behind it.";
    IdentityRate = "identity_rate", 429,
        "Too many requests came for one identity.",
        "Look for a copy that asks in a loop, or a stolen token; raise limits.identityPerMinute if there are many copies.";
    TooLarge = "too_large", 413,
        "The body is longer than 64 KiB.",
        "Send the CSR alone.";
    BodyBroken = "body_broken", 400,
        "The body broke off.",
        "Look at the network between.";
    LifetimeMalformed = "lifetime_malformed", 400,
        "The lifetime that is asked for is no duration.",
        "Write ?ttl=24h, or leave it out.";
    CsrMalformed = "csr_malformed", 400,
        "The body is no PKCS#10 request, or not one in strict DER.",
        "Make the CSR with a current library; the answer says what was seen.";
    CsrKey = "csr_key", 400,
        "The CSR's key or signature algorithm is weak or not supported, or the signature does not verify.",
        "Use ECDSA P-256, P-384 or P-521, Ed25519, or RSA from 2048 bits on, with SHA-256 or longer.";
    CsrWish = "csr_wish", 400,
        "The CSR asks for something that no workload's certificate can have.",
        "Leave it out: the CA takes nothing but the key from a CSR.";
    SignerExpired = "signer_expired", 500,
        "The CA's own signing certificate has expired.",
        "Give the CA a new root.";
    SigningFailed = "signing_failed", 500,
        "The CA could not sign.",
        "The log has the reason.";
    OnPurpose = "on_purpose", 401,
        "The CA was told to refuse (--fault refuse), or to answer 429 (busy) or 500 (error).",
        "Start the CA without --fault.";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fmt::Write;
    use std::path::Path;

    use super::*;

    const INTRODUCTION: &str = "\
# Refusals of the CA

Whoever gets no certificate is refused for one reason. Its id is stable, and it is the same in the audit log (`refusal`,
beside the whole `reason`) and in the label `result` of `pillion_ca_requests_total`. Who shows evidence that is refused gets
401 and learns no more.

<!-- Written by ca/src/refusal.rs: change it there. -->

| id | answer | what happened | what helps |
|---|---|---|---|
";

    fn page() -> String {
        let mut page = INTRODUCTION.to_owned();
        for refusal in RefusalId::ALL {
            let answer = match refusal.status() {
                0 => "TLS alert, or 401".to_owned(),
                status => status.to_string(),
            };
            let (id, sentence, cure) = (refusal.id(), refusal.sentence(), refusal.cure());
            writeln!(page, "| `{id}` | {answer} | {sentence} | {cure} |").unwrap();
        }
        page
    }

    #[test]
    fn the_reference_page_says_what_the_code_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/ca-refusals.md");
        let page = page();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            written, page,
            "write the page anew: UPDATE_GOLDEN=1 cargo test -p pillion-ca reference_page"
        );
    }

    #[test]
    fn ids_are_unique_and_no_sentence_breaks_the_table() {
        let mut seen = HashSet::new();
        for refusal in RefusalId::ALL {
            assert!(seen.insert(refusal.id()), "{} stands twice", refusal.id());
            assert!(!refusal.sentence().contains(['|', '\n']) && !refusal.cure().contains(['|', '\n']));
        }
    }
}
