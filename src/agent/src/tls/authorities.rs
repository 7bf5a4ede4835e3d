//! Which certificates a set of authorities vouches for: those of clients (API-021), and the API server's (API-190).
//! Upstream: crypto/x509 (verify.go: Certificate.Verify; x509.go: CheckSignatureFrom), as client-go's transport and the x509 request
//! authenticator call it.
//! Differs: a certificate of version 1 counts only directly under an authority, one with CA:TRUE only if it is itself among the authorities;
//! the algorithms are ring's, so no P-521 and no RSA under 2048 bits. Certificate policies are not looked at, and where they are critical
//! below an authority they are refused, as are name constraints on e-mail, URIs and directories. Of what a peer sends along, six certificates
//! at most are looked at.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime};
use rustls::{CertificateError, OtherError};
use webpki::{
    EndEntityCert, Error, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, KeyUsage, RawPublicKeyEntity,
    RequiredEkuNotFoundContext, VerifiedPath, anchor_from_trusted_cert,
};
use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::X509Version;

/// What a certificate is shown for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// By a client.
    Client,
    /// By a server.
    Server,
}

/// A certificate that is trusted, and what it vouches with, if it can be read for that.
struct Root {
    der: CertificateDer<'static>,
    anchor: Option<TrustAnchor<'static>>,
}

/// Certificates that are trusted.
pub struct Authorities {
    roots: Vec<Root>,
    anchors: Vec<TrustAnchor<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorities").field("roots", &self.roots.len()).finish_non_exhaustive()
    }
}

impl Authorities {
    /// Those of them that can be read.
    #[must_use]
    pub fn new(certificates: impl IntoIterator<Item = CertificateDer<'static>>, algorithms: WebPkiSupportedAlgorithms) -> Self {
        let root = |der: CertificateDer<'static>| {
            parsed(&der).ok()?;
            let anchor = anchor_from_trusted_cert(&der).ok().map(|anchor| anchor.to_owned());
            Some(Root { der, anchor })
        };
        let roots: Vec<Root> = certificates.into_iter().filter_map(root).collect();
        let anchors = roots.iter().filter_map(|root| root.anchor.clone()).collect();
        Self { roots, anchors, algorithms }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.roots.len()
    }

    /// Whether nobody is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// Whether that certificate holds now, for that purpose; the others help to find who vouches for it. Its names are not looked at.
    ///
    /// # Errors
    /// Why it does not.
    pub fn verify(
        &self,
        shown: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        // Go: `opts.Roots.contains(c)`. It vouches for itself, whether it may sign others or not.
        if self.roots.iter().any(|root| root.der.as_ref() == shown.as_ref()) {
            return parsed(shown).and_then(|shown| holds(&shown, usage, now)).map_err(told);
        }
        let judge = |path: &VerifiedPath<'_>| self.judge(path, usage, now);
        let verified = match EndEntityCert::try_from(shown) {
            Ok(leaf) => parsed(shown).and_then(|shown| understood(&shown)).and_then(|()| {
                let between = between(shown, others);
                leaf.verify_for_usage(self.algorithms.all, &self.anchors, &between, now, usage, None, Some(&judge)).map(drop)
            }),
            Err(Error::UnsupportedCertVersion) => self.verify_first_version(shown, usage, now),
            Err(error) => Err(error),
        };
        verified.map_err(told)
    }

    /// What webpki takes for granted of those who sign: it does not look at an anchor but for its name and key, nor at anybody's key usage.
    fn judge(&self, path: &VerifiedPath<'_>, usage: Usage, now: UnixTime) -> Result<(), Error> {
        let mut below = 0;
        for between in path.intermediate_certificates() {
            may_issue(&parsed(&between.der())?, usage, now, below)?;
            below += 1;
        }
        let roots = self.roots.iter().filter(|root| root.anchor.as_ref() == Some(path.anchor()));
        one_of(roots.map(|root| may_issue(&parsed(&root.der)?, usage, now, below)))
    }

    /// Version 1 has no extensions, and webpki does not read it: the subject's name, the key, and who signed it are all there is.
    fn verify_first_version(&self, der: &CertificateDer<'_>, usage: Usage, now: UnixTime) -> Result<(), Error> {
        let shown = parsed(der)?;
        let body = &shown.tbs_certificate;
        let is_plain = shown.extensions().is_empty() && body.issuer_uid.is_none() && body.subject_uid.is_none();
        if shown.version() != X509Version::V1 || !is_plain || body.signature != shown.signature_algorithm {
            return Err(Error::UnsupportedCertVersion);
        }
        holds(&shown, usage, now)?;
        let (algorithm, signature) = signature_of(der).ok_or(Error::BadDer)?;
        one_of(self.roots.iter().filter(|root| root.anchor.is_some()).map(|root| {
            let issuer = parsed(&root.der)?;
            if issuer.subject().as_raw() != shown.issuer().as_raw() {
                return Err(Error::UnknownIssuer);
            }
            may_issue(&issuer, usage, now, 0)?;
            let spki = SubjectPublicKeyInfoDer::from(issuer.public_key().raw);
            let key = RawPublicKeyEntity::try_from(&spki)?;
            // An algorithm does not name the curve: each that it may stand for is tried.
            let known = self.algorithms.all.iter().filter(|known| known.signature_alg_id().as_ref() == algorithm);
            let is_signed = known.into_iter().any(|known| key.verify_signature(*known, body.as_ref(), signature).is_ok());
            if is_signed { Ok(()) } else { Err(Error::InvalidSignatureForPublicKey) }
        }))
    }
}

/// As many certificates between the shown one and an authority are looked at: a path has no more, and of those of one name each order is
/// tried, whoever made them, before anything is believed.
const MOST_BETWEEN: usize = 6;

/// Those of the others that can lie between that certificate and an authority: of authorities, found from below by their names.
fn between<'a>(shown: &CertificateDer<'_>, others: &'a [CertificateDer<'_>]) -> Vec<CertificateDer<'a>> {
    let Ok(shown) = parsed(shown) else { return Vec::new() };
    let is_authority = |it: &X509Certificate<'_>| it.basic_constraints().ok().flatten().is_some_and(|it| it.value.ca);
    let read = others.iter().filter_map(|der| Some((der.as_ref(), parsed(der).ok().filter(is_authority)?)));
    let read: Vec<(&[u8], X509Certificate<'_>)> = read.collect();
    let (mut kept, mut names, mut next) = (Vec::new(), vec![shown.issuer().as_raw()], 0);
    while let Some(name) = names.get(next).copied() {
        next += 1;
        for (der, certificate) in read.iter().filter(|(_, it)| it.subject().as_raw() == name) {
            if kept.len() < MOST_BETWEEN && !kept.contains(der) {
                kept.push(*der);
                names.push(certificate.issuer().as_raw());
            }
        }
    }
    kept.into_iter().map(CertificateDer::from).collect()
}

/// What a certificate was signed with, and the signature: what follows on its body.
fn signature_of<'a>(der: &'a CertificateDer<'_>) -> Option<(&'a [u8], &'a [u8])> {
    let (_, whole) = Any::from_der(der).ok()?;
    let (rest, _body) = Any::from_der(whole.data).ok()?;
    let (rest, algorithm) = Any::from_der(rest).ok()?;
    let (rest, bits) = Any::from_der(rest).ok()?;
    let [0, signature @ ..] = bits.data else { return None };
    let is_so = algorithm.tag() == Tag::Sequence && bits.tag() == Tag::BitString && rest.is_empty();
    is_so.then_some((algorithm.data, signature))
}

/// Whether one of them agrees; else why the last that has a say does not.
fn one_of(answers: impl Iterator<Item = Result<(), Error>>) -> Result<(), Error> {
    let mut refused = Error::UnknownIssuer;
    for answer in answers {
        match answer {
            Ok(()) => return Ok(()),
            Err(Error::UnknownIssuer) => {}
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Error::BadDer),
    }
}

/// Whether that certificate may sign others of that purpose now, with so many authorities between it and them.
fn may_issue(issuer: &X509Certificate<'_>, usage: Usage, now: UnixTime, below: u32) -> Result<(), Error> {
    let constraints = issuer.basic_constraints().map_err(|_| Error::BadDer)?;
    let is_old = issuer.version() != X509Version::V3 && issuer.extensions().is_empty();
    let is_authority = constraints.as_ref().map_or(is_old, |it| it.value.ca);
    let signs = issuer.key_usage().map_err(|_| Error::BadDer)?.is_none_or(|it| it.value.key_cert_sign());
    if !is_authority || !signs {
        return Err(Error::EndEntityUsedAsCa);
    }
    if constraints.and_then(|it| it.value.path_len_constraint).is_some_and(|most| below > most) {
        return Err(Error::PathLenConstraintViolated);
    }
    holds(issuer, usage, now)
}

/// Whether nothing is in a certificate that must be understood and is not (parser.go: processExtensions). Policies are left to Go's rule for
/// roots: they are not looked at.
fn understood(certificate: &X509Certificate<'_>) -> Result<(), Error> {
    let is_known = |extension: &ParsedExtension<'_>| match extension {
        ParsedExtension::KeyUsage(_)
        | ParsedExtension::BasicConstraints(_)
        | ParsedExtension::NameConstraints(_)
        | ParsedExtension::ExtendedKeyUsage(_)
        | ParsedExtension::CRLDistributionPoints(_)
        | ParsedExtension::AuthorityKeyIdentifier(_)
        | ParsedExtension::SubjectKeyIdentifier(_)
        | ParsedExtension::CertificatePolicies(_)
        | ParsedExtension::PolicyConstraints(_)
        | ParsedExtension::PolicyMappings(_)
        | ParsedExtension::InhibitAnyPolicy(_) => true,
        // One of its names at least.
        ParsedExtension::SubjectAlternativeName(names) => names.general_names.iter().any(|name| {
            matches!(name, GeneralName::DNSName(_) | GeneralName::RFC822Name(_) | GeneralName::IPAddress(_) | GeneralName::URI(_))
        }),
        _ => false,
    };
    if certificate.extensions().iter().any(|it| it.critical && !is_known(it.parsed_extension())) {
        return Err(Error::UnsupportedCriticalExtension);
    }
    Ok(())
}

/// Whether a certificate is of its time and of that purpose, and has nothing in it that must be understood and is not.
fn holds(certificate: &X509Certificate<'_>, usage: Usage, now: UnixTime) -> Result<(), Error> {
    understood(certificate)?;
    let moment = |seconds: i64| UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()));
    let validity = certificate.validity();
    let (not_before, not_after) = (moment(validity.not_before.timestamp()), moment(validity.not_after.timestamp()));
    if now < not_before {
        return Err(Error::CertNotValidYet { time: now, not_before });
    }
    if now > not_after {
        return Err(Error::CertExpired { time: now, not_after });
    }
    let purposes = certificate.extended_key_usage().map_err(|_| Error::BadDer)?;
    let is_among = purposes.is_none_or(|it| match usage {
        _ if it.value.any => true,
        Usage::Client => it.value.client_auth,
        Usage::Server => it.value.server_auth,
    });
    if is_among { Ok(()) } else { Err(usage.missing()) }
}

/// 2.5.29.37.0, 1.3.6.1.5.5.7.3.1 and 1.3.6.1.5.5.7.3.2 as they are encoded.
const ANY: KeyPurposeId<'static> = KeyPurposeId::new(&[0x55, 0x1d, 0x25, 0x00]);
const SERVER_AUTH: KeyPurposeId<'static> = KeyPurposeId::new(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01]);
const CLIENT_AUTH: KeyPurposeId<'static> = KeyPurposeId::new(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02]);

impl Usage {
    fn missing(self) -> Error {
        let required = match self {
            Self::Client => KeyUsage::client_auth(),
            Self::Server => KeyUsage::server_auth(),
        };
        Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext { required, present: Vec::new() })
    }
}

/// Go's `checkChainForKeyUsage`, for one certificate: webpki's own does not know `anyExtendedKeyUsage`.
impl ExtendedKeyUsageValidator for Usage {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        let wanted = match self {
            Self::Client => CLIENT_AUTH,
            Self::Server => SERVER_AUTH,
        };
        let mut is_limited = false;
        for purpose in purposes {
            let purpose = purpose?;
            if purpose == wanted || purpose == ANY {
                return Ok(());
            }
            is_limited = true;
        }
        if is_limited { Err(self.missing()) } else { Ok(()) }
    }
}

/// The error as the handshake tells it: with the alert that belongs to it.
pub(super) fn told(error: Error) -> rustls::Error {
    match error {
        Error::UnknownIssuer => CertificateError::UnknownIssuer,
        Error::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        Error::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext { time, not_before },
        Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        Error::BadDer => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
    .into()
}

#[cfg(test)]
mod tests;
