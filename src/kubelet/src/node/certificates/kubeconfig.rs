//! Decides what the kubeconfig of a node that joins says: the server that it joined by, and the file where its certificate will be.
//! Upstream: pkg/kubelet/certificate/bootstrap/bootstrap.go (writeKubeconfigFromBootstrapping).
//! Differs: the bootstrap kubeconfig's tls-server-name is carried over; upstream forgets it at the next start.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// Whose certificates are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// In a file.
    File(String),
    /// As it is, in PEM.
    Data(Vec<u8>),
    /// The system's.
    None,
}

/// A cluster as a kubeconfig names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its URL.
    pub url: String,
    /// The name in its certificate, if it is not the URL's host.
    pub name: Option<String>,
    /// Whose certificates are trusted.
    pub authority: Authority,
    /// Whether any certificate is.
    pub insecure: bool,
}

/// The kubeconfig, as upstream writes it (API-190).
#[must_use]
pub fn kubeconfig(server: &Server, certificate: &str) -> String {
    let mut cluster = Vec::new();
    match &server.authority {
        Authority::File(path) => cluster.push(format!("certificate-authority: {}", scalar(path))),
        Authority::Data(pem) if !pem.is_empty() => {
            cluster.push(format!("certificate-authority-data: {}", BASE64_STANDARD.encode(pem)));
        }
        Authority::Data(_) | Authority::None => {}
    }
    if server.insecure {
        cluster.push("insecure-skip-tls-verify: true".to_owned());
    }
    cluster.push(format!("server: {}", scalar(&server.url)));
    cluster.extend(server.name.as_ref().map(|name| format!("tls-server-name: {}", scalar(name))));
    let (cluster, certificate) = (cluster.join("\n    "), scalar(certificate));
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    {cluster}\n  name: default-cluster\ncontexts:\n- context:\n    cluster: \
         default-cluster\n    namespace: default\n    user: default-auth\n  name: default-context\ncurrent-context: \
         default-context\nkind: Config\nusers:\n- name: default-auth\n  user:\n    client-certificate: {certificate}\n    client-key: \
         {certificate}\n"
    )
}

/// A string as YAML has it: plain where that cannot be misread, else quoted as JSON quotes.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | ':' | '@');
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let is_word = !matches!(text, "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n");
    if begins && is_word && text.chars().all(plain) && !text.ends_with(':') {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

    // API-190
    #[test]
    fn kubeconfig_is_upstreams_byte_for_byte() {
        let server = Server {
            url: "https://10.0.0.1:6443".to_owned(),
            name: None,
            authority: Authority::Data(b"ABC".to_vec()),
            insecure: false,
        };
        let expected = "\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: QUJD
    server: https://10.0.0.1:6443
  name: default-cluster
contexts:
- context:
    cluster: default-cluster
    namespace: default
    user: default-auth
  name: default-context
current-context: default-context
kind: Config
users:
- name: default-auth
  user:
    client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem
    client-key: /var/lib/kubelet/pki/kubelet-client-current.pem
";
        assert_eq!(kubeconfig(&server, PEM), expected);
    }

    #[test]
    fn what_yaml_could_misread_is_quoted() {
        let server = Server {
            url: "https://[fd00::1]:6443".to_owned(),
            name: Some("api: of #1".to_owned()),
            authority: Authority::File("/etc/my pki/ca.crt".to_owned()),
            insecure: true,
        };
        let text = kubeconfig(&server, PEM);
        let read: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        let cluster = &read["clusters"][0]["cluster"];
        assert_eq!(cluster["server"], "https://[fd00::1]:6443");
        assert_eq!(cluster["tls-server-name"], "api: of #1");
        assert_eq!(cluster["certificate-authority"], "/etc/my pki/ca.crt");
        assert_eq!(cluster["insecure-skip-tls-verify"], true);
    }
}
