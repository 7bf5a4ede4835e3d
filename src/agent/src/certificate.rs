//! The serving certificate that is made when none was given.
//! Upstream: cmd/kubelet/app/server.go (InitializeTLS), k8s.io/client-go/util/cert (GenerateSelfSignedCertKey).
//! Differs: an ECDSA key instead of RSA; one self-signed certificate instead of an authority and a leaf.

use std::net::IpAddr;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};

/// A certificate and its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct SelfSigned {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// Makes one for a host, valid for a year; `now` in seconds since 1970 is part of its name, as upstream's.
///
/// # Errors
/// If the host is not a name that a certificate can carry.
pub fn self_signed(host: &str, addresses: &[IpAddr], now: i64) -> Result<SelfSigned, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, format!("{host}@{now}"));
    params.subject_alt_names.extend(addresses.iter().map(|ip| SanType::IpAddress(*ip)));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let day = |days: i64| {
        let at = jiff::Timestamp::from_second(now + days * 86_400).unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC).date();
        let part = |n: i8| u8::try_from(n).unwrap_or(1);
        rcgen::date_time_ymd(i32::from(at.year()), part(at.month()), part(at.day()))
    };
    params.not_before = day(-1);
    params.not_after = day(365);
    let certificate = params.self_signed(&key)?;
    Ok(SelfSigned { certificate: certificate.pem(), key: key.serialize_pem() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::certified_key;

    // API-170: a server without a certificate of its own makes one that works.
    #[test]
    fn self_signed_certificate_serves() {
        let made = self_signed("n1", &["10.0.0.1".parse().unwrap()], 1_767_225_600).unwrap();
        certified_key(made.certificate.as_bytes(), made.key.as_bytes()).unwrap();
        let der = crate::tls::certificates("it", made.certificate.as_bytes()).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der[0]).unwrap();
        assert_eq!(parsed.subject().iter_common_name().next().unwrap().as_str().unwrap(), "n1@1767225600");
    }
}
