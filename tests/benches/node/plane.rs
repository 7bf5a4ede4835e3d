//! The API server that the agent is measured against, and what it shows of pods as they come and go.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use model::api::authorize::Identity;
use serde_json::{Value, json};

use crate::PATIENCE;
use crate::control_plane::{ControlPlane, Programs};
use crate::live::agent::NODE;
use crate::live::api::{Api, NAMESPACE};
use crate::live::bed::{is_ready, pod_path};
use crate::live::site::Site;
use crate::live::wait::until;

/// How long one look is from the next.
const PERIOD: Duration = Duration::from_millis(1);

/// A real API server if there is one, or the pretend one.
pub(crate) enum Plane {
    /// etcd and kube-apiserver.
    Real(Box<ControlPlane>),
    /// The simulator's.
    Pretend(Box<Api>),
}

impl Plane {
    /// Starts it.
    pub(crate) fn start(site: &Site) -> anyhow::Result<Self> {
        match Programs::find() {
            Ok(programs) => {
                println!("with a real API server");
                let plane = ControlPlane::start(site, programs)?;
                plane.furnish()?;
                Ok(Self::Real(Box::new(plane)))
            }
            Err(missing) => {
                println!("with the pretend API server: {missing}");
                Ok(Self::Pretend(Box::new(Api::start(&site.directory.join("requests.log"))?)))
            }
        }
    }

    /// A kubeconfig of that identity.
    pub(crate) fn kubeconfig(&self, who: &Identity) -> anyhow::Result<String> {
        match self {
            Self::Real(plane) => plane.kubeconfig(who),
            Self::Pretend(api) => api.kubeconfig(who),
        }
    }

    /// The authority that signs the clients of the agent's HTTPS API.
    pub(crate) fn client_ca(&self) -> &str {
        match self {
            Self::Real(plane) => &plane.pki.ca_certificate,
            Self::Pretend(api) => &api.pki.ca_certificate,
        }
    }

    /// Waits until the node is Ready.
    pub(crate) fn node_ready(&self) -> anyhow::Result<()> {
        let node = || match self {
            Self::Real(plane) => plane.get(&format!("node/{NODE}")),
            Self::Pretend(api) => api.get(&format!("/api/v1/nodes/{NODE}")),
        };
        until("node Ready", PATIENCE, || match node() {
            Ok(Some(node)) if is_ready(&node) => Ok(()),
            other => Err(format!("{other:?}")),
        })
    }

    /// Makes pods; how long it takes from when they are there until the last is Ready.
    pub(crate) fn up(&self, pods: &[Value]) -> anyhow::Result<Duration> {
        match self {
            Self::Pretend(api) => {
                let began = Instant::now();
                for pod in pods {
                    api.create("pods", pod)?;
                }
                all(began, pods.len(), || Ok(self.listed(api)?.iter().filter(|pod| is_ready(pod)).count() == pods.len()))
            }
            Self::Real(plane) => Watch::start(plane)?.during(|| plane.create(pods), |watch| watch.ready.len() == pods.len()),
        }
    }

    /// Deletes all pods, which must be those; how long it takes until the last is gone.
    pub(crate) fn down(&self, names: &[String]) -> anyhow::Result<Duration> {
        match self {
            Self::Pretend(api) => {
                let began = Instant::now();
                for name in names {
                    api.delete(&pod_path(name))?;
                }
                all(began, names.len(), || Ok(self.listed(api)?.is_empty()))
            }
            Self::Real(plane) => {
                let delete = || plane.kubectl(&["delete", "pods", "--all", "--wait=false"], "").map(drop);
                Watch::start(plane)?.during(delete, |watch| watch.gone == names.len())
            }
        }
    }

    fn listed(&self, api: &Api) -> anyhow::Result<Vec<Value>> {
        let mut listed = api.get(&format!("{NAMESPACE}/pods"))?.unwrap_or_default();
        Ok(listed["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }
}

/// How long it takes until it is so for that many pods.
fn all(began: Instant, pods: usize, mut so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<Duration> {
    // The pretend API server is asked in this very process: seldom enough not to be what is measured.
    while !so()? {
        if began.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}");
        }
        std::thread::sleep(if pods == 1 { PERIOD } else { PERIOD * 100 });
    }
    Ok(began.elapsed())
}

/// A watch of a real API server, read while it is written.
struct Watch {
    child: Child,
    file: File,
    text: Vec<u8>,
    /// When something was seen first.
    began: Option<Instant>,
    ready: BTreeSet<String>,
    gone: usize,
}

impl Watch {
    fn start(plane: &ControlPlane) -> anyhow::Result<Self> {
        let path = format!("{NAMESPACE}/pods");
        let listed: Value = serde_json::from_str(&plane.raw(&path)?)?;
        let version = listed["metadata"]["resourceVersion"].as_str().context("a list has a version")?;
        let file = plane.directory.join("bench.watch");
        let raw = format!("--raw={path}?watch=true&resourceVersion={version}");
        let child = plane.command(&["get", &raw]).stdout(File::create(&file)?).spawn()?;
        // A bookmark of our own: the watch is there once it shows this one.
        let mark = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mark", "namespace": "default"}, "spec": {
            "nodeName": "nowhere", "containers": [{"name": "main", "image": "none"}],
        }});
        plane.create(&[mark])?;
        plane.kubectl(&["delete", "pod", "mark", "--grace-period=0", "--force", "--wait=false"], "")?;
        until("the watch", PATIENCE, || {
            if fs::read_to_string(&file)?.contains("\"DELETED\"") { Ok(()) } else { Err(anyhow::anyhow!("empty")) }
        })?;
        Ok(Self { child, file: File::open(&file)?, text: Vec::new(), began: None, ready: BTreeSet::new(), gone: 0 })
    }

    /// Reads while something is done, and until it is so; how long that was after the first event.
    fn during(mut self, act: impl FnOnce() -> anyhow::Result<()> + Send, so: impl Fn(&Self) -> bool) -> anyhow::Result<Duration> {
        std::thread::scope(|scope| {
            let acting = scope.spawn(act);
            let took = self.until(so);
            acting.join().map_err(|_| anyhow::anyhow!("panicked"))??;
            took
        })
    }

    fn until(&mut self, so: impl Fn(&Self) -> bool) -> anyhow::Result<Duration> {
        let end = Instant::now() + PATIENCE;
        while !so(self) {
            if Instant::now() > end {
                bail!("{} are Ready, {} are gone: not within {PATIENCE:?}", self.ready.len(), self.gone);
            }
            std::thread::sleep(PERIOD);
            self.read()?;
        }
        Ok(self.began.map(|began| began.elapsed()).unwrap_or_default())
    }

    fn read(&mut self) -> anyhow::Result<()> {
        self.file.read_to_end(&mut self.text)?;
        while let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.text.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line)?;
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
            if name == "mark" {
                continue;
            }
            self.began.get_or_insert_with(Instant::now);
            if event["type"] == "DELETED" {
                self.gone += 1;
            } else if is_ready(&event["object"]) {
                self.ready.insert(name.to_owned());
            }
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}
