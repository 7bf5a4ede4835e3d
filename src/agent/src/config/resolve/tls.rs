//! How the server shows itself and what it agrees to in a handshake.
//! Upstream: cmd/kubelet/app/server.go (InitializeTLS), k8s.io/component-base/cli/flag/{ciphersuites_flag,curves_flag}.go.
//! Differs: what rustls has not (RSA key exchange, CBC, 3DES, RC4, P-521, ML-KEM) is left out with a warning while something remains.

use std::path::PathBuf;

use super::Resolver;

/// The serving certificate, and what is agreed to with whom it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Where the certificate comes from.
    pub source: CertificateSource,
    /// What is agreed to.
    pub terms: Terms,
}

/// What is agreed to in a handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Whether TLS 1.2 is refused.
    pub only_tls13: bool,
    /// The cipher suites of TLS 1.2 by their names; empty is all that there are. Those of TLS 1.3 cannot be chosen, as in Go.
    pub cipher_suites: Vec<&'static str>,
    /// Key exchange groups by number; empty is all that there are.
    pub curves: Vec<u16>,
}

/// Where the serving certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// Two files that must be there.
    Files {
        /// The certificate with its chain.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// Two files that are made, self-signed, if they are not there.
    SelfSigned {
        /// The certificate.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// The API server, by a CertificateSigningRequest.
    Bootstrap {
        /// Where it is kept.
        directory: PathBuf,
        /// A certificate and its key that are shown until it has signed one.
        until_then: Option<(PathBuf, PathBuf)>,
    },
}

/// What a name in `tlsCipherSuites` comes to here.
#[derive(Clone, Copy)]
enum Suite {
    /// Always served with TLS 1.3.
    Tls13,
    /// Served with TLS 1.2, by that name.
    Tls12(&'static str),
    /// Known to Go, and not there.
    Missing,
}

/// The names that upstream takes (crypto/tls of Go 1.26: `CipherSuites`, `InsecureCipherSuites`, and two of old).
const CIPHER_SUITES: [(&str, Suite); 27] = [
    ("TLS_AES_128_GCM_SHA256", Suite::Tls13),
    ("TLS_AES_256_GCM_SHA384", Suite::Tls13),
    ("TLS_CHACHA20_POLY1305_SHA256", Suite::Tls13),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", Suite::Missing),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256", Suite::Missing),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", Suite::Tls12("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", Suite::Missing),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", Suite::Tls12("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384")),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", Suite::Tls12("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256")),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", Suite::Tls12("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256")),
    ("TLS_ECDHE_ECDSA_WITH_RC4_128_SHA", Suite::Missing),
    ("TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", Suite::Missing),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", Suite::Missing),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", Suite::Missing),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Suite::Tls12("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")),
    ("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", Suite::Missing),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", Suite::Tls12("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384")),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", Suite::Tls12("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256")),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", Suite::Tls12("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256")),
    ("TLS_ECDHE_RSA_WITH_RC4_128_SHA", Suite::Missing),
    ("TLS_RSA_WITH_3DES_EDE_CBC_SHA", Suite::Missing),
    ("TLS_RSA_WITH_AES_128_CBC_SHA", Suite::Missing),
    ("TLS_RSA_WITH_AES_128_CBC_SHA256", Suite::Missing),
    ("TLS_RSA_WITH_AES_128_GCM_SHA256", Suite::Missing),
    ("TLS_RSA_WITH_AES_256_CBC_SHA", Suite::Missing),
    ("TLS_RSA_WITH_AES_256_GCM_SHA384", Suite::Missing),
    ("TLS_RSA_WITH_RC4_128_SHA", Suite::Missing),
];

/// Groups for the key exchange, as Go numbers them, and whether they are there: P-256, P-384, P-521, X25519, and the hybrids with
/// ML-KEM.
const CURVES: [(u16, bool); 7] = [(23, true), (24, true), (25, false), (29, true), (4587, false), (4588, false), (4589, false)];
const CURVES_REMEDY: &str = "use 29 (X25519), 23 (P-256) or 24 (P-384)";

impl Resolver<'_> {
    pub(super) fn tls(&mut self) -> Tls {
        let source = self.certificate_source();
        let (cipher_suites, serves_tls12) = self.cipher_suites();
        self.warn_of_rsa_alone(&source, &cipher_suites);
        let curves = self.curves();
        let only_tls13 = match self.config.tls_min_version.as_str() {
            "VersionTLS13" => {
                if !self.config.tls_cipher_suites.is_empty() {
                    let ignored = "TLS 1.3 cipher suites are not configurable, ignoring --tls-cipher-suites";
                    self.warnings.push(ignored.to_owned());
                }
                true
            }
            "" | "VersionTLS12" => false,
            old @ ("VersionTLS10" | "VersionTLS11") => {
                self.warnings.push(format!("tlsMinVersion {old} is served as VersionTLS12, the oldest that there is"));
                false
            }
            other => {
                self.problem("tlsMinVersion", other, format!("unknown tls version {other:?}"), "give VersionTLS12 or VersionTLS13");
                false
            }
        };
        Tls { source, terms: Terms { only_tls13: only_tls13 || !serves_tls12, cipher_suites, curves } }
    }

    fn certificate_source(&mut self) -> CertificateSource {
        let config = self.config;
        let (certificate, key) = (config.tls_cert_file.as_str(), config.tls_private_key_file.as_str());
        match (certificate.is_empty(), key.is_empty()) {
            // pkg/kubelet/kubelet.go (NewMainKubelet): whatever files are given.
            (no_certificate, no_key) if config.server_tls_bootstrap && no_certificate == no_key => CertificateSource::Bootstrap {
                directory: self.path(&self.flags.cert_dir),
                until_then: (!no_key).then(|| (self.path(certificate), self.path(key))),
            },
            (false, false) => CertificateSource::Files { certificate: self.path(certificate), key: self.path(key) },
            (true, true) => {
                let dir = self.path(&self.flags.cert_dir);
                CertificateSource::SelfSigned { certificate: dir.join("kubelet.crt"), key: dir.join("kubelet.key") }
            }
            (has_no_certificate, _) => {
                let missing = if has_no_certificate { "tlsCertFile" } else { "tlsPrivateKeyFile" };
                let message = "tlsCertFile and tlsPrivateKeyFile must be set together";
                self.problem(missing, "", message, &format!("set {missing}, or neither"));
                CertificateSource::Files { certificate: PathBuf::new(), key: PathBuf::new() }
            }
        }
    }

    /// The suites of TLS 1.2 that were chosen, and whether it is served at all: who names suites of TLS 1.3 only gets no other.
    fn cipher_suites(&mut self) -> (Vec<&'static str>, bool) {
        let named = &self.config.tls_cipher_suites;
        let (mut served, mut missing, mut has_tls13, mut is_known) = (Vec::new(), Vec::new(), false, true);
        for name in named {
            match CIPHER_SUITES.iter().find(|(known, _)| known == name) {
                Some((_, Suite::Tls13)) => has_tls13 = true,
                Some((_, Suite::Tls12(suite))) => served.push(*suite),
                Some((known, Suite::Missing)) => missing.push(*known),
                None => {
                    is_known = false;
                    let message = format!("Cipher suite {name} not supported or doesn't exist");
                    self.problem("tlsCipherSuites", name, message, &format!("use any of {}", served_names()));
                }
            }
        }
        if !missing.is_empty() {
            let left_out = missing.join(", ");
            if is_known && served.is_empty() && !has_tls13 && self.config.tls_min_version != "VersionTLS13" {
                let message = format!("none of the cipher suites in tlsCipherSuites can be served: {left_out}");
                self.problem("tlsCipherSuites", &left_out, message, &format!("name at least one of {}", served_names()));
            } else {
                let why = "there is no RSA key exchange, CBC, 3DES or RC4 in this agent";
                self.warnings.push(format!("tlsCipherSuites: {left_out} cannot be served and is left out: {why}"));
            }
        }
        let serves_tls12 = named.is_empty() || !served.is_empty() || !has_tls13;
        (served, serves_tls12)
    }

    /// API-170: the key of a certificate that the agent makes is ECDSA, so suites of RSA alone come to TLS 1.3 alone.
    fn warn_of_rsa_alone(&mut self, source: &CertificateSource, suites: &[&str]) {
        let is_alone = !suites.is_empty() && suites.iter().all(|suite| suite.starts_with("TLS_ECDHE_RSA_"));
        if is_alone && self.config.tls_min_version != "VersionTLS13" && matches!(source, CertificateSource::SelfSigned { .. }) {
            let why =
                "the certificate that this agent makes has an ECDSA key, so clients of TLS 1.2 have no suite in common with it";
            let remedy = "name a suite with ECDHE_ECDSA too, or give tlsCertFile and tlsPrivateKeyFile";
            self.warnings.push(format!("tlsCipherSuites: {}: {why}; {remedy}", suites.join(", ")));
        }
    }

    fn curves(&mut self) -> Vec<u16> {
        let (mut seen, mut served, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for curve in &self.config.tls_curve_preferences {
            let known = u16::try_from(*curve).ok().and_then(|number| CURVES.iter().find(|(known, _)| *known == number));
            let message = match known {
                _ if !(1..=i32::from(u16::MAX)).contains(curve) => {
                    format!("curve preference {curve} is out of range (must be 1-65535)")
                }
                _ if seen.contains(curve) => format!("duplicate curve preference {curve}"),
                None => format!("curve preference {curve} is not supported"),
                Some((number, is_there)) => {
                    seen.push(*curve);
                    if *is_there {
                        served.push(*number)
                    } else {
                        missing.push(number.to_string())
                    }
                    continue;
                }
            };
            self.problem("tlsCurvePreferences", &curve.to_string(), message, CURVES_REMEDY);
        }
        if !missing.is_empty() {
            let left_out = missing.join(", ");
            if served.is_empty() {
                let message = format!("none of the groups in tlsCurvePreferences can be served: {left_out}");
                self.problem("tlsCurvePreferences", &left_out, message, CURVES_REMEDY);
            } else {
                let why = "there is no P-521 and no ML-KEM in this agent";
                self.warnings.push(format!("tlsCurvePreferences: {left_out} cannot be served and is left out: {why}"));
            }
        }
        served
    }
}

fn served_names() -> String {
    let served = CIPHER_SUITES.iter().filter(|(_, suite)| !matches!(suite, Suite::Missing));
    served.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}
