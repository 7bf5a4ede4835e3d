//! What an agent begins with: its kubeconfig, or a bootstrap kubeconfig by which it joins the cluster.
//! Upstream: cmd/kubelet/app/server.go (buildKubeletClientConfig), pkg/kubelet/certificate/bootstrap/bootstrap.go.
//! Differs: the kubeconfig is written whole or not at all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kubelet::failure::FailureKind;
use kubelet::node::certificates::kubeconfig::{Authority, Server, kubeconfig};
use kubelet::node::certificates::store::place;
use kubelet::node::certificates::{
    CLIENT, Found, JOINED_WITHIN, Rotation, Start, check_compatible, compute_start, signing_request,
};
use kubelet::rng::Rng;
use tokio::time::{Instant, timeout};

use super::pem::{NodeKey, chain_of, facts_of, held_of};
use super::store::{Pair, Store, StoreError, execute};
use super::{Renewal, certificate_of, moment};
use crate::api::{Access, AccessError, CertificateRequests, Material, Rotating};
use crate::env::{Clock, Net};
use crate::tls::{ClientIdentity, client_config};

/// API-192: how long a server that is not there yet is waited for, and how often it is asked.
const SERVER_WITHIN: Duration = Duration::from_secs(60);
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Why a node cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// There is no bootstrap kubeconfig, and this.
    #[error("unable to load kubeconfig: {0}")]
    Kubeconfig(AccessError),
    /// Nobody renews the certificate in the kubeconfig, and this is wrong with it (API-291).
    #[error("invalid kubeconfig: {0}")]
    Invalid(AccessError),
    /// The kubeconfig is no use, and neither is this.
    #[error("unable to load bootstrap kubeconfig: {0}")]
    Bootstrap(AccessError),
    /// Whether there is a kubeconfig cannot be told.
    #[error("error reading existing bootstrap kubeconfig {path}: {error}")]
    Unreadable {
        /// Its path.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// The directory of certificates.
    #[error("failed to initialize client certificate store: {0}")]
    Store(#[from] StoreError),
    /// No certificate came.
    #[error("{0}")]
    NotSigned(String),
}

/// What a node is given to join with.
#[derive(Clone, Copy, Debug)]
pub struct Joining<'a> {
    /// The node's name.
    pub node: &'a str,
    /// `--kubeconfig`
    pub kubeconfig: &'a Path,
    /// `--bootstrap-kubeconfig`
    pub bootstrap: Option<&'a Path>,
    /// `--cert-dir`
    pub directory: &'a Path,
    /// `rotateCertificates`
    pub rotates: bool,
}

/// What it does so in.
#[derive(Clone)]
pub struct World {
    /// Byte streams.
    pub net: Arc<dyn Net>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// What back-offs and the moment of renewal are drawn from; keys are not.
    pub seed: u64,
}

/// The way to the API server, and what keeps it open, to be run beside the agent. Waits for the first certificate only if
/// certificates are not renewed (API-192); else it comes while the agent runs (API-190).
///
/// # Errors
/// What keeps the node from beginning.
pub async fn connect(joining: &Joining<'_>, world: World) -> Result<(Access, Option<Renewal>), JoinError> {
    if joining.rotates {
        let (access, renewal) = renewing(joining, world)?;
        return Ok((access, Some(renewal)));
    }
    if let Some(bootstrap) = joining.bootstrap {
        join_now(joining, bootstrap, &world).await?;
    }
    Ok((Access::from_kubeconfig(joining.kubeconfig).map_err(JoinError::Invalid)?, None))
}

/// API-190: whether the kubeconfig that is there is good.
fn start(kubeconfig: &Path, now: Timestamp) -> Result<Start, JoinError> {
    let found = match fs::metadata(kubeconfig) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
        Err(error) => return Err(JoinError::Unreadable { path: kubeconfig.display().to_string(), error }),
        Ok(_) => match Access::from_kubeconfig(kubeconfig) {
            // Somebody's who means it is not written over.
            Err(error) if error.is_unsupported => return Err(JoinError::Kubeconfig(error)),
            Err(error) => Found::Unusable(error.to_string()),
            Ok(access) => expiries(&access).map_or_else(Found::Unusable, Found::Expiries),
        },
    };
    let start = compute_start(found, now);
    if let Start::Bootstrap(Some(why)) = &start {
        tracing::warn!(kubeconfig = %kubeconfig.display(), why, "The existing kubeconfig cannot be used; the node joins anew");
    }
    Ok(start)
}

/// When each certificate of the chain that it shows ends.
fn expiries(access: &Access) -> Result<Vec<Timestamp>, String> {
    let identity = access.identity().map_err(|e| e.to_string())?;
    if access.server.scheme_str() != Some("http") {
        let trusted = access.trusted().map_err(|e| e.to_string())?;
        client_config(&trusted, identity.as_ref()).map_err(|e| e.to_string())?;
    }
    let Some(identity) = identity else { return Ok(Vec::new()) };
    chain_of(&identity.certificate)?.iter().map(|der| Ok(held_of(der)?.not_after)).collect()
}

fn renewing(joining: &Joining<'_>, world: World) -> Result<(Access, Renewal), JoinError> {
    let now = world.clock.now();
    let store = Store::open(joining.directory, &CLIENT)?;
    let (bootstrap, user) = load(joining, &store, now)?;
    // API-194: what an administrator put into the kubeconfig is kept, and replaced at once.
    let named = match (&user.certificate, &user.key) {
        (Some(Material::File(certificate)), Some(Material::File(key))) => Some((certificate.clone(), key.clone())),
        _ => None,
    };
    let kept = store.current(named).filter(|pair| pair.held.is_valid(now));
    let at_once = kept.is_none();
    let pair = kept.or_else(|| seeded(&user, &store, now));
    let rotating = Arc::new(Rotating::new(Arc::clone(&world.clock)));
    let access = Access { rotating: Some(Arc::clone(&rotating)), ..user.anonymous() };
    if let Some(pair) = &pair {
        rotating.replace(pair.identity.clone(), pair.held.not_after);
    }
    let epoch = Instant::now();
    let held = pair.map(|pair| pair.held);
    let rotation = Rotation::new(joining.node, held, at_once, world.seed ^ 0x6365_7274, moment(&world, epoch));
    tracing::info!(deadline = %rotation.due(), "Client rotation is on, will bootstrap in background");
    let node = joining.node.to_owned();
    Ok((access.clone(), Renewal { node, world, bootstrap, own: access, rotating, store, rotation, epoch }))
}

/// What requests for certificates are made with while there is none, and what everything else is asked with.
fn load(joining: &Joining<'_>, store: &Store, now: Timestamp) -> Result<(Access, Access), JoinError> {
    let good = match joining.bootstrap {
        None => true,
        Some(_) => start(joining.kubeconfig, now)? == Start::Kubeconfig,
    };
    match joining.bootstrap.filter(|_| !good) {
        None => {
            let access = Access::from_kubeconfig(joining.kubeconfig).map_err(JoinError::Kubeconfig)?;
            Ok((access.clone(), access))
        }
        Some(path) => {
            let bootstrap = Access::from_kubeconfig(path).map_err(JoinError::Bootstrap)?;
            let current = PathBuf::from(store.paths().current());
            write_kubeconfig(&bootstrap, joining.kubeconfig, store)?;
            let file = || Some(Material::File(current.clone()));
            let user = Access { certificate: file(), key: file(), ..bootstrap.anonymous() };
            Ok((bootstrap, user))
        }
    }
}

/// The pair that the kubeconfig has in itself, kept in the store if that goes.
fn seeded(user: &Access, store: &Store, now: Timestamp) -> Option<Pair> {
    let (Some(Material::Data(certificate)), Some(Material::Data(key))) = (&user.certificate, &user.key) else { return None };
    let kept = store.update(certificate, &String::from_utf8_lossy(key), now);
    kept.or_else(|error| {
        tracing::warn!(%error, "Unable to set the cert/key pair to the bootstrap certificate");
        Pair::new("the kubeconfig", ClientIdentity { certificate: certificate.clone(), key: key.clone() })
    })
    .ok()
}

fn write_kubeconfig(bootstrap: &Access, path: &Path, store: &Store) -> Result<(), StoreError> {
    let server = Server {
        url: bootstrap.server.to_string().trim_end_matches('/').to_owned(),
        name: bootstrap.server_name.clone(),
        authority: match &bootstrap.authority {
            Some(Material::File(path)) => Authority::File(path.to_string_lossy().into_owned()),
            Some(Material::Data(pem)) => Authority::Data(pem.clone()),
            None => Authority::None,
        },
        insecure: bootstrap.insecure,
    };
    let text = kubeconfig(&server, &store.paths().current());
    place(&path.to_string_lossy(), text.into_bytes()).iter().try_for_each(execute)
}

/// API-192: the first certificate of a node that does not renew it, waited for.
async fn join_now(joining: &Joining<'_>, bootstrap: &Path, world: &World) -> Result<(), JoinError> {
    if start(joining.kubeconfig, world.clock.now())? == Start::Kubeconfig {
        return Ok(());
    }
    let bootstrap = Access::from_kubeconfig(bootstrap).map_err(JoinError::Bootstrap)?;
    let store = Store::open(joining.directory, &CLIENT)?;
    let key = kept_key(&store)?;
    let requests = CertificateRequests::new(bootstrap.clone(), &world.net);
    wait_for_server(&requests, world.seed).await;
    let wrong = |why: String| JoinError::NotSigned(why);
    let request = key.request(joining.node).map_err(|e| wrong(e.to_string()))?;
    let request = requested(&requests, &key.request_name(joining.node), request.into_bytes(), world).await.map_err(wrong)?;
    tracing::info!("Waiting for client certificate to be issued");
    let signed = timeout(JOINED_WITHIN, certificate_of(&requests, &request)).await;
    let certificate = signed.map_err(|_| wrong("timed out waiting for the condition".to_owned()))?.map_err(wrong)?;
    store.update(&certificate, &key.pem(), world.clock.now())?;
    write_kubeconfig(&bootstrap, joining.kubeconfig, &store)?;
    // Last: until then another life could need it.
    if let Err(error) = fs::remove_file(store.paths().waiting_key())
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "Failed cleaning up private key file");
    }
    Ok(())
}

/// The key of the pair in use, else the one that waits for its certificate, else a new one, which then waits.
fn kept_key(store: &Store) -> Result<NodeKey, JoinError> {
    let waiting = store.paths().waiting_key();
    let in_use = store.current(None).map(|pair| pair.identity.key);
    let texts = in_use.into_iter().chain(fs::read(&waiting).ok());
    if let Some(key) = texts.filter_map(|text| NodeKey::read(&String::from_utf8_lossy(&text)).ok()).next() {
        return Ok(key);
    }
    let key = NodeKey::generate().map_err(|error| JoinError::NotSigned(error.to_string()))?;
    place(&waiting, key.pem().into_bytes()).iter().try_for_each(execute)?;
    Ok(key)
}

async fn wait_for_server(requests: &CertificateRequests, seed: u64) {
    let mut rng = Rng::new(seed);
    let asking = async {
        while let Err(error) = requests.healthz().await {
            tracing::warn!(%error, "Failed to connect to apiserver");
            tokio::time::sleep(rng.jitter(ASK_AGAIN, 0.2)).await;
        }
    };
    if timeout(SERVER_WITHIN, asking).await.is_err() {
        tracing::warn!("Error waiting for apiserver to come up: timed out waiting to connect to apiserver");
    }
}

/// A new request, or the one that an earlier life made with the same key.
async fn requested(
    requests: &CertificateRequests,
    name: &str,
    pem: Vec<u8>,
    world: &World,
) -> Result<CertificateSigningRequest, String> {
    let failure = match requests.create(&signing_request(Some(name), pem.clone())).await {
        Ok(created) => return Ok(created),
        Err(failure) => failure,
    };
    if failure.kind != FailureKind::AlreadyExists {
        return Err(format!("cannot create certificate signing request: {failure}"));
    }
    tracing::info!("csr for this node already exists, reusing");
    let found = requests.get(name).await.map_err(|e| format!("cannot retrieve certificate signing request: {e}"))?;
    let certificate = found.status.as_ref().and_then(|status| status.certificate.as_ref()).filter(|pem| !pem.0.is_empty());
    let check = || -> Result<(), String> {
        let expiry = match certificate {
            None => None,
            Some(pem) => chain_of(&pem.0)?
                .iter()
                .map(|der| Ok(held_of(der)?.not_after))
                .collect::<Result<Vec<_>, String>>()?
                .into_iter()
                .min(),
        };
        check_compatible(&facts_of(&found.spec.request.0)?, &facts_of(&pem)?, &found.spec.signer_name, expiry, world.clock.now())
    };
    check().map_err(|why| format!("retrieved csr is not compatible: {why}"))?;
    Ok(found)
}
