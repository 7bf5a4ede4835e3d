//! Where the API server is and what the agent shows it, from a kubeconfig.
//! Upstream: k8s.io/client-go/tools/clientcmd.
//! Differs: exec plugins, auth providers, proxies and impersonation are refused by name; a node's kubeconfig has none.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kube::config::{AuthInfo, Cluster, Kubeconfig};

use super::rotating::Rotating;
use crate::tls::{ClientIdentity, Trust};

/// A piece of identity: given as it is, or in a file that may change.
#[derive(Clone, PartialEq, Eq)]
pub enum Material {
    /// As it is.
    Data(Vec<u8>),
    /// In a file, read again for each new connection.
    File(PathBuf),
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // It may be a key or a token (API-280).
            Self::Data(_) => f.write_str("Data(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl Material {
    /// As it is now.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::Data(data) => Ok(data.clone()),
            Self::File(path) => std::fs::read(path).map_err(|e| io::Error::new(e.kind(), format!("open {}: {e}", path.display()))),
        }
    }
}

/// What tells that a file is another than before, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl Material {
    /// `None` for what is in no file, or in one that is not there.
    fn stamp(&self) -> Option<Stamp> {
        let Self::File(path) = self else { return None };
        let file = std::fs::metadata(path).ok()?;
        Some(Stamp { device: file.dev(), inode: file.ino(), length: file.len(), changed: (file.mtime(), file.mtime_nsec()) })
    }
}

/// Where the API server is and what the agent shows it.
#[derive(Clone, Debug)]
pub struct Access {
    /// Its URL.
    pub server: http::Uri,
    /// The name that its certificate must carry, if not the URL's host.
    pub server_name: Option<String>,
    /// Whose certificates are trusted; `None` for those that the machine trusts.
    pub authority: Option<Material>,
    /// Whether any certificate is good.
    pub insecure: bool,
    /// The client certificate.
    pub certificate: Option<Material>,
    /// Its key.
    pub key: Option<Material>,
    /// A bearer token.
    pub token: Option<Material>,
    /// A client certificate that is renewed in this process; it goes before the one above.
    pub rotating: Option<Arc<Rotating>>,
    /// Whether only HTTP/1.1 is offered: `DISABLE_HTTP2` is set (API-197).
    pub http1_only: bool,
}

/// What tells that an identity is another than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamps {
    files: Vec<Option<Stamp>>,
    renewals: u64,
}

/// A kubeconfig that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("kubeconfig {file}: {why}")]
pub struct AccessError {
    file: String,
    why: String,
    /// Whether it is as good as any, but for something that is not supported here.
    pub is_unsupported: bool,
}

/// What is wrong with what is in it.
#[derive(Debug)]
enum Wrong {
    Broken(String),
    Unsupported(&'static str),
}

impl From<String> for Wrong {
    fn from(why: String) -> Self {
        Self::Broken(why)
    }
}

impl From<&str> for Wrong {
    fn from(why: &str) -> Self {
        Self::Broken(why.to_owned())
    }
}

impl Access {
    /// Reads a kubeconfig file: its current context, or the only one.
    ///
    /// # Errors
    /// Names the field and the remedy.
    pub fn from_kubeconfig(path: &Path) -> Result<Self, AccessError> {
        let fails = |wrong: Wrong| {
            let (why, is_unsupported) = match wrong {
                Wrong::Broken(why) => (why, false),
                Wrong::Unsupported(why) => (why.to_owned(), true),
            };
            AccessError { file: path.display().to_string(), why, is_unsupported }
        };
        let config = Kubeconfig::read_from(path).map_err(|e| fails(chain(&e).into()))?;
        // k8s.io/apimachinery/pkg/util/net/http.go (SetTransportDefaults)
        let http1_only = std::env::var_os("DISABLE_HTTP2").is_some_and(|value| !value.is_empty());
        Ok(Self { http1_only, ..Self::of(&config).map_err(fails)? })
    }

    /// What connections are made with, as it is now on the disk. Connections of other stamps show an old identity.
    pub(super) fn stamps(&self) -> Stamps {
        Stamps {
            files: [&self.authority, &self.certificate, &self.key].into_iter().flatten().map(Material::stamp).collect(),
            renewals: self.rotating.as_ref().map_or(0, |rotating| rotating.renewals()),
        }
    }

    /// The same server, shown nothing.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self { certificate: None, key: None, token: None, rotating: None, ..self.clone() }
    }

    /// The client certificate with its key, as it is now; none if there is to be none.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn identity(&self) -> io::Result<Option<ClientIdentity>> {
        let read = |material: &Option<Material>| material.as_ref().map(Material::read).transpose();
        Ok(match (read(&self.certificate)?, read(&self.key)?) {
            (Some(certificate), Some(key)) => Some(ClientIdentity { certificate, key }),
            _ => None,
        })
    }

    /// Whose certificates are trusted, as it is now. A file that is empty is no authority, and not the machine's either.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn trusted(&self) -> io::Result<Trust> {
        Ok(match &self.authority {
            _ if self.insecure => Trust::Anybody,
            Some(authority) => Trust::These(authority.read()?),
            None => Trust::Machine,
        })
    }

    fn of(config: &Kubeconfig) -> Result<Self, Wrong> {
        let name = config
            .current_context
            .clone()
            .filter(|name| !name.is_empty())
            .or_else(|| config.contexts.first().map(|c| c.name.clone()))
            .ok_or("current-context: is not set, and there are no contexts; add one")?;
        let context = config.contexts.iter().find(|c| c.name == name).and_then(|c| c.context.as_ref());
        let context = context.ok_or_else(|| format!("contexts: there is none named {name:?}"))?;
        let cluster = config.clusters.iter().find(|c| c.name == context.cluster).and_then(|c| c.cluster.as_ref());
        let cluster = cluster.ok_or_else(|| format!("clusters: there is none named {:?}", context.cluster))?;
        let user = context.user.as_deref().unwrap_or_default();
        let user = config.auth_infos.iter().find(|u| u.name == user).and_then(|u| u.auth_info.clone()).unwrap_or_default();
        Self::from_parts(cluster, &user)
    }

    fn from_parts(cluster: &Cluster, user: &AuthInfo) -> Result<Self, Wrong> {
        if user.exec.is_some() {
            return Err(Wrong::Unsupported(
                "users[].user.exec: exec plugins are not supported; give a client certificate or a token",
            ));
        }
        if user.auth_provider.is_some() || user.username.is_some() {
            return Err(Wrong::Unsupported("users[].user: only client certificates and tokens are supported"));
        }
        let as_name = [&user.impersonate, &user.impersonate_uid].into_iter().flatten().any(|name| !name.is_empty());
        let as_groups = user.impersonate_groups.as_ref().is_some_and(|groups| !groups.is_empty());
        if as_name || as_groups || user.impersonate_user_extra.as_ref().is_some_and(|extra| !extra.is_empty()) {
            return Err(Wrong::Unsupported(
                "users[].user.as, as-groups: impersonation is not supported; give the user's own credentials",
            ));
        }
        if cluster.proxy_url.as_ref().is_some_and(|url| !url.is_empty()) {
            return Err(Wrong::Unsupported(
                "clusters[].cluster.proxy-url: proxies are not supported; the API server must be reached directly",
            ));
        }
        let server = cluster.server.clone().ok_or("clusters[].cluster.server: is not set")?;
        let server: http::Uri = server.parse().map_err(|e| format!("clusters[].cluster.server: {server:?} is not a URL: {e}"))?;
        let insecure = cluster.insecure_skip_tls_verify.unwrap_or(false);
        let authority = material(
            "certificate-authority",
            cluster.certificate_authority_data.as_deref(),
            cluster.certificate_authority.as_deref(),
        )?;
        if insecure && authority.is_some() {
            let why = "clusters[].cluster: specifying a root certificates file with the insecure flag is not allowed";
            return Err(Wrong::Broken(why.to_owned()));
        }
        let secret = |text: &secrecy::SecretString| secrecy::ExposeSecret::expose_secret(text).to_owned();
        let key_data = user.client_key_data.as_ref().map(secret);
        let token = user.token.as_ref().map(secret).map(|token| Material::Data(token.into_bytes()));
        Ok(Self {
            server,
            server_name: cluster.tls_server_name.clone(),
            authority,
            insecure,
            certificate: material(
                "client-certificate",
                user.client_certificate_data.as_deref(),
                user.client_certificate.as_deref(),
            )?,
            key: material("client-key", key_data.as_deref(), user.client_key.as_deref())?,
            token: user.token_file.as_ref().map(|path| Material::File(path.into())).or(token),
            rotating: None,
            http1_only: false,
        })
    }
}

fn material(field: &str, data: Option<&str>, file: Option<&str>) -> Result<Option<Material>, String> {
    match (data.filter(|d| !d.is_empty()), file.filter(|f| !f.is_empty())) {
        (Some(data), _) => {
            let bytes = BASE64_STANDARD.decode(data).map_err(|e| format!("{field}-data: is not base64: {e}"))?;
            Ok(Some(Material::Data(bytes)))
        }
        (None, Some(file)) => Ok(Some(Material::File(file.into()))),
        (None, None) => Ok(None),
    }
}

/// An error with everything that it says of its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Access, String> {
        Access::of(&Kubeconfig::from_yaml(text).unwrap()).map_err(|wrong| match wrong {
            Wrong::Broken(why) => why,
            Wrong::Unsupported(why) => why.to_owned(),
        })
    }

    const GOOD: &str = "
clusters: [{name: c, cluster: {server: 'https://10.0.0.1:6443', certificate-authority-data: QUJD}}]
users: [{name: u, user: {client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem, client-key: /k.pem}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x";

    #[test]
    fn kubeconfig_names_server_authority_and_identity() {
        let access = parse(GOOD).unwrap();
        assert_eq!(access.server.to_string(), "https://10.0.0.1:6443/");
        assert_eq!(access.authority, Some(Material::Data(b"ABC".to_vec())));
        assert_eq!(access.key, Some(Material::File("/k.pem".into())));
        assert!(access.token.is_none() && !access.insecure);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = parse(&GOOD.replace("current-context: x", "current-context: y")).unwrap_err();
        assert_eq!(wrong, "contexts: there is none named \"y\"");
        let wrong = parse(&GOOD.replace(
            "{client-certificate",
            "{exec: {command: aws, apiVersion: client.authentication.k8s.io/v1}, client-certificate",
        ));
        assert!(wrong.unwrap_err().starts_with("users[].user.exec: exec plugins are not supported"));
        // API-190, API-197: what is not followed is not dropped (clientcmd/client_config.go: Proxy, Impersonate).
        for (field, instead, told) in [
            ("{server", "{proxy-url: 'http://proxy:3128', server", "clusters[].cluster.proxy-url: proxies are not supported"),
            ("{client-certificate", "{as: admin, client-certificate", "users[].user.as, as-groups: impersonation is not"),
            ("{client-certificate", "{as-groups: [g], client-certificate", "users[].user.as, as-groups: impersonation is not"),
        ] {
            let wrong = parse(&GOOD.replace(field, instead)).unwrap_err();
            assert!(wrong.starts_with(told), "{wrong}");
        }
        assert!(parse(&GOOD.replace("{server", "{proxy-url: '', server")).is_ok());
    }

    // API-190: client-go transport.go (HasCA): who names no authority believes the machine's; an empty file is none, and not the machine's.
    #[test]
    fn authority_is_the_machines_if_none_is_named() {
        assert_eq!(parse(GOOD).unwrap().trusted().unwrap(), Trust::These(b"ABC".to_vec()));
        let none = GOOD.replace(", certificate-authority-data: QUJD", "");
        assert_eq!(parse(&none).unwrap().trusted().unwrap(), Trust::Machine);
        let empty = GOOD.replace("certificate-authority-data: QUJD", "certificate-authority: /dev/null");
        assert_eq!(parse(&empty).unwrap().trusted().unwrap(), Trust::These(Vec::new()));
        let insecure = GOOD.replace("certificate-authority-data: QUJD", "insecure-skip-tls-verify: true");
        assert_eq!(parse(&insecure).unwrap().trusted().unwrap(), Trust::Anybody);
        // client-go/transport/transport.go (TLSConfigFor)
        let both =
            GOOD.replace("certificate-authority-data: QUJD", "certificate-authority-data: QUJD, insecure-skip-tls-verify: true");
        let wrong = parse(&both).unwrap_err();
        assert_eq!(wrong, "clusters[].cluster: specifying a root certificates file with the insecure flag is not allowed");
    }

    // API-280, S27
    #[test]
    fn what_is_shown_is_never_printed() {
        let secret = Material::Data(b"hunter2".to_vec());
        assert_eq!(format!("{secret:?} {:?}", Material::File("/token".into())), "Data(..) File(\"/token\")");
    }
}
