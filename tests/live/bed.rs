//! Everything that live tests run on, brought up together and taken down together.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use model::api::authorize::Identity;
use serde_json::Value;

use super::agent::{Agent, NODE};
use super::api::{Api, NAMESPACE};
use super::requirements::Machine;
use super::site::Site;
use super::wait::until;

/// How long a pod may take to get anywhere, on a machine that is busy with a compiler.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A runtime, a pretend API server and an agent.
pub(crate) struct Bed {
    pub(crate) site: Site,
    pub(crate) api: Api,
    pub(crate) agent: Agent,
}

impl Bed {
    /// Brings everything up; the calling thread is in the enclosure's network afterwards.
    pub(crate) fn up(machine: Machine) -> anyhow::Result<Self> {
        let site = Site::up(machine)?;
        let started = || -> anyhow::Result<(Api, Agent)> {
            let api = Api::start(&site.directory.join("requests.log"))?;
            fs::write(site.directory.join("admin.kubeconfig"), api.kubeconfig(&Identity::admin())?)?;
            let agent = site.start_impatient_agent(&api.kubeconfig(&Identity::node(NODE))?, &api.pki.ca_certificate)?;
            Ok((api, agent))
        };
        match started() {
            Ok((api, agent)) => Ok(Self { site, api, agent }),
            Err(error) => {
                site.down(true, &[])?;
                Err(error)
            }
        }
    }

    /// Ends everything. Logs are shown first if something failed.
    pub(crate) fn down(self, failed: bool) -> anyhow::Result<()> {
        drop(self.api);
        self.site.down(failed, &["requests.log", "agent/keelson.log"])
    }

    /// The IDs of all containers and PodSandboxes that the runtime knows.
    pub(crate) fn containers(&self) -> anyhow::Result<Vec<String>> {
        self.site.containerd.containers(&self.site.enclosure)
    }

    /// The kubeconfig of an administrator.
    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.site.directory.join("admin.kubeconfig")
    }

    /// The node, if it is registered.
    pub(crate) fn node(&self) -> anyhow::Result<Option<Value>> {
        self.api.get(&format!("/api/v1/nodes/{NODE}"))
    }

    /// A pod as the API server has it.
    pub(crate) fn pod(&self, name: &str) -> anyhow::Result<Value> {
        self.api.get(&pod_path(name))?.with_context(|| format!("pod {name} is gone"))
    }

    /// Waits until a pod is as wanted.
    pub(crate) fn pod_becomes(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        until(&format!("pod {name}: {what}"), SOON, || match self.pod(name) {
            Ok(pod) if wanted(&pod) => Ok(pod),
            Ok(pod) => Err(format!("{} events {:?}", pod["status"], self.api.events_about(name))),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Waits until all of a pod's containers are ready.
    pub(crate) fn pod_ready(&self, name: &str) -> anyhow::Result<Value> {
        self.pod_becomes(name, "Ready", is_ready)
    }

    /// Waits until a pod has ended, well or not.
    pub(crate) fn pod_ended(&self, name: &str) -> anyhow::Result<Value> {
        self.pod_becomes(name, "ended", |pod| pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed")
    }

    /// What a container wrote, through the agent's HTTPS API.
    pub(crate) fn log(&self, pod: &str, query: &str) -> anyhow::Result<String> {
        match self.api.carried(&format!("{}/log{query}", pod_path(pod)))? {
            (200, text) => Ok(text),
            (code, text) => bail!("log of {pod}: {code} {text}"),
        }
    }

    /// Makes a pod, waits for its end, and gives what its only container wrote.
    pub(crate) fn output_of(&self, pod: &Value) -> anyhow::Result<String> {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        self.api.create("pods", pod)?;
        let ended = self.pod_ended(name)?;
        let text = self.log(name, "")?;
        anyhow::ensure!(ended["status"]["phase"] == "Succeeded", "pod {name}: {}; it wrote: {text}", ended["status"]);
        Ok(text)
    }

    /// Deletes a pod and waits until it is gone.
    pub(crate) fn delete(&self, name: &str) -> anyhow::Result<()> {
        self.api.delete(&pod_path(name))?;
        self.gone(name)
    }

    /// Waits until a pod is gone.
    pub(crate) fn gone(&self, name: &str) -> anyhow::Result<()> {
        until(&format!("pod {name}: gone"), SOON, || match self.api.get(&pod_path(name)) {
            Ok(None) => Ok(()),
            Ok(Some(pod)) => Err(pod["status"].to_string()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Deletes all pods at once, as between two tests.
    pub(crate) fn delete_all_pods(&self) -> anyhow::Result<()> {
        for name in self.pod_names()? {
            self.api.delete(&pod_path(&name))?;
        }
        until("no pods", SOON, || match self.pod_names() {
            Ok(names) if names.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        })
    }

    fn pod_names(&self) -> anyhow::Result<Vec<String>> {
        let listed = self.api.get(&format!("{NAMESPACE}/pods"))?.unwrap_or_default();
        let names = listed["items"].as_array().into_iter().flatten().filter_map(|pod| pod["metadata"]["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    }
}

/// The path of a pod.
pub(crate) fn pod_path(name: &str) -> String {
    format!("{NAMESPACE}/pods/{name}")
}

/// The status of a pod's container of that name; nothing if there is none.
pub(crate) fn container_status<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let kinds = ["containerStatuses", "initContainerStatuses"].into_iter();
    let statuses = kinds.flat_map(|kind| pod["status"][kind].as_array().into_iter().flatten());
    statuses.into_iter().find(|status| status["name"] == name).unwrap_or(&Value::Null)
}

/// Whether an object's condition `Ready` is `True`.
pub(crate) fn is_ready(object: &Value) -> bool {
    condition(object, "Ready") == "True"
}

/// The status of a condition; empty if there is none.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().find(|c| c["type"] == kind).and_then(|c| c["status"].as_str()).unwrap_or_default()
}
