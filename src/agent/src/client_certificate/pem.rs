//! Keys, requests and certificates as bytes: made, read, and told what matters of them.
//! Upstream: k8s.io/client-go/util/{cert,keyutil}.
//! Differs: keys are PKCS #8 (`PRIVATE KEY`), not SEC 1; both read both. They come from the system's randomness, never from the seed.

use std::fmt::Write as _;
use std::net::IpAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use kubelet::node::certificates::serving::Names;
use kubelet::node::certificates::{Held, ORGANIZATION, RequestFacts, digested_of, name_of_digest, user_of};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha512_256};
use x509_parser::extensions::{GeneralName, SubjectAlternativeName};
use x509_parser::prelude::{FromDer as _, X509Certificate, X509CertificationRequest};

/// All certificates of a PEM text.
///
/// # Errors
/// If there are none.
pub(super) fn chain_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    crate::tls::certificates("certificate", pem).map_err(|error| error.to_string())
}

/// What matters of a certificate.
///
/// # Errors
/// If it is none.
pub(super) fn held_of(der: &[u8]) -> Result<Held, String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| format!("unable to parse certificate data: {error}"))?;
    let moment = |seconds: i64| Timestamp::from_second(seconds).map_err(|error| error.to_string());
    let subject = certificate.subject();
    let names = certificate.subject_alternative_name().ok().flatten().map(|names| names_in(names.value)).unwrap_or_default();
    let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().unwrap_or_default().to_owned();
    Ok(Held {
        not_before: moment(certificate.validity().not_before.timestamp())?,
        not_after: moment(certificate.validity().not_after.timestamp())?,
        common_name: subject.iter_common_name().next().map(text).unwrap_or_default(),
        organizations: subject.iter_organization().map(text).collect(),
        names,
    })
}

fn names_in(names: &SubjectAlternativeName<'_>) -> Names {
    let mut found = Names::default();
    for name in &names.general_names {
        match name {
            GeneralName::DNSName(name) => found.dns.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                found.ips.extend(v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)));
            }
            _ => {}
        }
    }
    found
}

/// A block of PEM.
pub(super) fn encode(label: &str, der: &[u8]) -> String {
    let mut pem = format!("-----BEGIN {label}-----\n");
    let text = BASE64_STANDARD.encode(der);
    for line in text.as_bytes().chunks(64) {
        // base64 is ASCII; writing to a string does not fail.
        let _ = writeln!(pem, "{}", String::from_utf8_lossy(line));
    }
    let _ = writeln!(pem, "-----END {label}-----");
    pem
}

/// A private key of the node (API-191: P-256).
pub(crate) struct NodeKey(KeyPair);

impl NodeKey {
    /// A new one.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub(crate) fn generate() -> Result<Self, rcgen::Error> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self)
    }

    /// One that was kept.
    ///
    /// # Errors
    /// If it is none that can be used here.
    pub(super) fn read(pem: &str) -> Result<Self, rcgen::Error> {
        let key =
            rustls::pki_types::PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
        KeyPair::from_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256).map(Self)
    }

    /// In PEM.
    pub(crate) fn pem(&self) -> String {
        encode("PRIVATE KEY", self.0.serialized_der())
    }

    /// A request for a certificate of that node, in PEM (API-191): organization and common name, nothing else.
    ///
    /// # Errors
    /// If the name is none that a certificate can carry.
    pub(super) fn request(&self, node: &str) -> Result<String, rcgen::Error> {
        self.request_under(node, &Names::default())
    }

    /// The same, and other names (API-173).
    ///
    /// # Errors
    /// If a name is none that a certificate can carry.
    pub(crate) fn request_under(&self, node: &str, names: &Names) -> Result<String, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, ORGANIZATION);
        params.distinguished_name.push(DnType::CommonName, user_of(node));
        for name in &names.dns {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(names.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        Ok(encode("CERTIFICATE REQUEST", params.serialize_request(&self.0)?.der()))
    }

    /// The name of this node's request with this key (API-192).
    pub(super) fn request_name(&self, node: &str) -> String {
        name_of_digest(&Sha512_256::digest(digested_of(&self.0.subject_public_key_info(), node)))
    }
}

/// What of a request must be as in ours.
///
/// # Errors
/// If it is none.
pub(super) fn facts_of(pem: &[u8]) -> Result<RequestFacts, String> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|error| format!("unable to parse new csr: {error}"))?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err("unable to parse new csr: PEM block type must be CERTIFICATE REQUEST".to_owned());
    }
    let (_, request) =
        X509CertificationRequest::from_der(&block.contents).map_err(|error| format!("unable to parse new csr: {error}"))?;
    let info = &request.certification_request_info;
    Ok(RequestFacts { subject: info.subject.to_string(), public_key: info.subject_pki.raw.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    // API-191: no name but the subject's, in the order in which Go writes it, and a signature that holds.
    #[test]
    fn request_has_group_and_user_and_nothing_else() {
        let key = NodeKey::generate().unwrap();
        let pem = key.request("n1").unwrap();
        assert_eq!(facts_of(pem.as_bytes()).unwrap().subject, "O=system:nodes, CN=system:node:n1");
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&block.contents).unwrap();
        request.verify_signature().unwrap();
        assert!(request.requested_extensions().is_none_or(|mut asked| asked.next().is_none()));
        let curve = request.certification_request_info.subject_pki.algorithm.parameters.as_ref().unwrap().as_oid().unwrap();
        assert_eq!(curve.to_id_string(), "1.2.840.10045.3.1.7");
    }

    // API-173: what is asked for is what is found again in a certificate.
    #[test]
    fn request_for_a_serving_certificate_has_its_names() {
        let names = Names { dns: vec!["n1".to_owned()], ips: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()] };
        let pem = NodeKey::generate().unwrap().request_under("n1", &names).unwrap();
        assert_eq!(facts_of(pem.as_bytes()).unwrap().subject, "O=system:nodes, CN=system:node:n1");
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&block.contents).unwrap();
        let asked: Vec<_> = request.requested_extensions().unwrap().collect();
        let [x509_parser::extensions::ParsedExtension::SubjectAlternativeName(asked)] = asked[..] else { panic!("{asked:?}") };
        assert_eq!(names_in(asked), names);
    }

    // API-192: the same key makes the same request after a restart.
    #[test]
    fn kept_key_names_the_same_request() {
        let key = NodeKey::generate().unwrap();
        let kept = NodeKey::read(&key.pem()).unwrap();
        assert_eq!(kept.request_name("n1"), key.request_name("n1"));
        assert_ne!(key.request_name("n2"), key.request_name("n1"));
        let name = key.request_name("n1");
        // SHA-512/256 is 32 bytes: 43 letters of base64 without padding.
        assert!(name.starts_with("node-csr-") && name.len() == "node-csr-".len() + 43, "{name}");
        let facts = |key: &NodeKey| facts_of(key.request("n1").unwrap().as_bytes()).unwrap();
        assert_eq!(facts(&kept), facts(&key));
        assert_ne!(facts(&NodeKey::generate().unwrap()), facts(&key));
    }

    // What a signer answers, and what lies on the disk.
    #[test]
    fn mangled_certificates_and_keys_are_read_or_refused() {
        let own = crate::certificate::self_signed("n1", &["10.0.0.1".parse().unwrap()], 1_700_000_000).unwrap();
        let key = NodeKey::generate().unwrap();
        let request = key.request("n1").unwrap();
        let der = chain_of(own.certificate.as_bytes()).unwrap().remove(0);
        let key_pem = key.pem();
        let seeds: [&[u8]; 4] = [own.certificate.as_bytes(), request.as_bytes(), der.as_ref(), key_pem.as_bytes()];
        crate::mangled::each_of("certificate", 3, &seeds, |input| {
            let _held = held_of(input);
            for der in chain_of(input).into_iter().flatten() {
                let _held = held_of(&der);
            }
            let _facts = facts_of(input);
            let _key = NodeKey::read(&crate::mangled::text(input));
        });
    }
}
