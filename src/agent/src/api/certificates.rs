//! Requests for certificates: made, read, and followed until something has come of them.
//! Upstream: k8s.io/client-go/util/certificate/csr.
//! Differs: only certificates.k8s.io/v1, which every server since 1.19 has; a request that is gone when it is first looked at is an
//! error at once, not after fifteen minutes.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use k8s_openapi::List;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kubelet::failure::{Failure, FailureKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use super::Access;
use super::connector::Connector;
use super::error::{Status, in_watch};
use super::lines::Lines;
use super::send::{Ask, Kind, Sender};
use crate::env::Net;

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// How long an answer may take, as one to a watch's opening.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at a request, if the server does not tell of changes by itself.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one watch is asked for, and how much longer it may be silent.
const WATCH_SECONDS: u64 = 300;
const IDLE: Duration = Duration::from_secs(WATCH_SECONDS + 30);

/// The API for certificates, over connections of its own.
pub struct CertificateRequests {
    sender: Sender,
}

/// One line of a watch.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

impl CertificateRequests {
    /// As that access shows itself. Nothing is connected yet.
    #[must_use]
    pub fn new(access: Access, net: &Arc<dyn Net>) -> Self {
        let connector = Connector::new(Arc::new(access), Arc::clone(net));
        Self { sender: Sender::new(&connector, Arc::default()) }
    }

    async fn object<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, Failure> {
        let answered = timeout(ANSWER_TIMEOUT, self.sender.object(ask)).await;
        answered.unwrap_or_else(|_| Err(Failure::new(FailureKind::UnknownOutcome, "the API server does not answer")))
    }

    /// Makes a request; it then has a name and a UID.
    ///
    /// # Errors
    /// As the API server refuses.
    pub async fn create(&self, request: &CertificateSigningRequest) -> Result<CertificateSigningRequest, Failure> {
        self.object(Ask::with(Method::POST, PATH.to_owned(), Kind::Json, request)).await
    }

    /// Reads one.
    ///
    /// # Errors
    /// As the API server refuses.
    pub async fn get(&self, name: &str) -> Result<CertificateSigningRequest, Failure> {
        self.object(Ask::get(format!("{PATH}/{name}"))).await
    }

    /// Whether the server says that it is well.
    ///
    /// # Errors
    /// If it does not, within a second.
    pub async fn healthz(&self) -> Result<(), Failure> {
        let answered = timeout(Duration::from_secs(1), self.sender.done(Ask::get("/healthz".to_owned()))).await;
        answered.unwrap_or_else(|_| Err(Failure::new(FailureKind::Unavailable, "the API server does not answer")))
    }

    /// Shows a request to `look` as it is and after each change (`None` once it is gone), until that has found what it looks for.
    /// Goes on for ever otherwise: the deadline is the caller's.
    pub async fn follow<T>(&self, name: &str, mut look: impl FnMut(Option<&CertificateSigningRequest>) -> Option<T>) -> T {
        loop {
            match self.once(name, &mut look).await {
                Ok(Some(found)) => return found,
                Ok(None) => {}
                Err(error) => tracing::warn!(csr = name, %error, "Error fetching v1 certificate signing request"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Lists, and watches on from there.
    async fn once<T>(
        &self,
        name: &str,
        look: &mut impl FnMut(Option<&CertificateSigningRequest>) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        let path = format!("{PATH}?fieldSelector=metadata.name%3D{name}");
        let list: List<CertificateSigningRequest> = self.object(Ask::get(path.clone())).await?;
        let found = look(list.items.first());
        if found.is_some() {
            return Ok(found);
        }
        let revision = list.metadata.resource_version.unwrap_or_default();
        let ask = Ask::get(format!("{path}&watch=true&resourceVersion={revision}&timeoutSeconds={WATCH_SECONDS}"));
        let silent = || Failure::new(FailureKind::Unavailable, "the watch is silent");
        let opened = timeout(ANSWER_TIMEOUT, self.sender.stream(ask)).await.unwrap_or_else(|_| Err(silent()))?;
        let mut lines = Lines::new(opened.body);
        while let Some(read) = timeout(IDLE, lines.next()).await.map_err(|_| silent())? {
            let nonsense = |error: serde_json::Error| Failure::new(FailureKind::Other, format!("a line of the watch: {error}"));
            let line: Line = serde_json::from_slice(&read.bytes).map_err(nonsense)?;
            let found = match line.kind.as_str() {
                "ADDED" | "MODIFIED" => look(Some(&serde_json::from_value(line.object).map_err(nonsense)?)),
                "DELETED" => look(None),
                "ERROR" => return Err(in_watch(&serde_json::from_value::<Status>(line.object).unwrap_or_default())),
                _ => None,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}
