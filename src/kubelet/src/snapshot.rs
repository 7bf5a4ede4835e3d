//! What the server and the tools may see of the core: read between two events, never kept.
//! Upstream: pkg/kubelet/kubelet_getters.go (GetPods), pkg/kubelet/kubelet_pods.go, pkg/kubelet/pod/pod_manager.go.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::ids::PodUid;
use crate::kubelet::Kubelet;
use crate::node::certificates::serving::Names;
use crate::observation::{ContainerState, Observed};
use crate::pod::manager::{is_static, name_of};
use crate::pod::worker::{Phase, PodWorker};
use crate::resources::cgroup::cgroup_name;

/// How many there are of what, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tallies {
    /// Pods that a source wants here: from the API server, and static ones.
    pub desired: (usize, usize),
    /// Those of them that count against what the node has.
    pub active: (usize, usize),
    /// Pods that are worked on, by `config`, `lifecycle` and `static` as upstream calls them.
    pub working: BTreeMap<(&'static str, &'static str, &'static str), usize>,
    /// Pods whose sandbox was up at the last listing.
    pub running_pods: usize,
    /// Containers in each state at the last listing.
    pub containers: BTreeMap<ContainerState, usize>,
    /// Volumes by kind: wanted, and in place.
    pub volumes: BTreeMap<&'static str, (usize, usize)>,
    /// Whether the machine has control groups of version 2.
    pub cgroup_v2: bool,
}

impl Kubelet {
    /// How many there are of what.
    #[must_use]
    pub fn tallies(&self) -> Tallies {
        let split = |pods: &mut dyn Iterator<Item = &Arc<Pod>>| {
            pods.fold((0, 0), |(api, fixed), pod| if is_static(pod) { (api, fixed + 1) } else { (api + 1, fixed) })
        };
        let active = &mut self.workers.values().filter(|worker| Self::is_active(&self.pleg, worker)).map(|worker| &worker.pod);
        let mut working = BTreeMap::new();
        for (uid, worker) in &self.workers {
            let lifecycle = match worker.phase {
                Phase::Syncing => "sync",
                Phase::Terminating => "terminating",
                _ => "terminated",
            };
            let fixed = if is_static(&worker.pod) { "true" } else { "" };
            let (config, fixed) = match (self.pods.get(uid).is_some(), worker.source) {
                (true, _) => ("desired", fixed),
                (false, Some(_)) => ("orphan", fixed),
                (false, None) => ("runtime_only", "unknown"),
            };
            *working.entry((config, lifecycle, fixed)).or_default() += 1;
        }
        let (running_pods, containers) = self.pleg.counts();
        Tallies {
            desired: split(&mut self.pods.iter().map(|(_, desired)| &desired.pod)),
            active: split(active),
            working,
            running_pods,
            containers,
            volumes: self.parts.volumes.counts(),
            cgroup_v2: self.parts.startup.machine().is_some_and(|machine| machine.cgroup_v2),
        }
    }

    /// The pods that some source wants here (API-060): those of the API server as they were last seen there, the others, which nobody else
    /// has, with the status that was last computed.
    #[must_use]
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        let pods = self.pods.iter();
        pods.map(
            |(uid, desired)| if is_static(&desired.pod) { self.with_status(uid, &desired.pod) } else { Arc::clone(&desired.pod) },
        )
        .collect()
    }

    /// The cgroup driver in use, as the configuration would name it (API-066).
    #[must_use]
    pub fn cgroup_driver(&self) -> &'static str {
        self.parts.cgroup_driver().as_str()
    }

    /// The cgroup that all pods are in, as the driver in use names it (NODE-130, NODE-131).
    #[must_use]
    pub fn pods_cgroup(&self) -> String {
        cgroup_name(&self.parts.config, self.parts.cgroup_driver(), &["kubepods"])
    }

    /// The names under which the node can be reached, as its object has them; none while there is no address among them (API-173).
    #[must_use]
    pub fn serving_names(&self) -> Option<Names> {
        let status = self.parts.node.node()?.status.as_ref()?;
        let name_is_enough = self.parts.config.gates.enabled("AllowDNSOnlyNodeCSR");
        Names::of(status.addresses.as_deref().unwrap_or_default(), name_is_enough)
    }

    /// One of them, by namespace and name, with the status that was last computed: from it the instance is known whose log is asked for
    /// (API-084). Of two with one name, the one that is not being deleted.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let named = self.pods.iter().filter(|(_, desired)| {
            let full = name_of(&desired.pod);
            *full.namespace == *namespace && *full.name == *name
        });
        let (uid, desired) = named.min_by_key(|(_, desired)| desired.pod.metadata.deletion_timestamp.is_some())?;
        Some(self.with_status(uid, &desired.pod))
    }

    /// What was last seen of a pod in the runtime.
    #[must_use]
    pub fn observation(&self, uid: &PodUid) -> Option<Observed> {
        self.workers.get(uid)?.observation.clone()
    }

    /// What was last seen of each pod in the runtime.
    #[must_use]
    pub fn observations(&self) -> Vec<Observed> {
        self.workers.values().filter_map(|worker| worker.observation.clone()).collect()
    }

    /// The volumes of a pod that are in place: by their names in the pod, what their directories are called.
    #[must_use]
    pub fn volume_directories(&self, uid: &PodUid) -> BTreeMap<String, String> {
        let mounted = self.parts.volumes.mounted(uid).iter();
        mounted.map(|(volume, place)| (volume.clone(), place.name.clone())).collect()
    }

    /// One pod's worker.
    #[must_use]
    pub fn worker(&self, uid: &PodUid) -> Option<&PodWorker> {
        self.workers.get(uid)
    }

    /// Whether nothing that is under way for a pod keeps it from being looked at; `None` if it need not be.
    #[must_use]
    pub fn may_look_at(&self, uid: &PodUid) -> Option<bool> {
        let worker = self.workers.get(uid).filter(|worker| worker.phase <= Phase::Terminating)?;
        if self.quarantine.holds(uid) {
            // It is looked at anew once it is let go.
            return None;
        }
        Some(self.parts.startup.is_done() && !worker.is_changing() && !worker.is_observing())
    }

    fn with_status(&self, uid: &PodUid, pod: &Arc<Pod>) -> Arc<Pod> {
        match self.parts.statuses.status(uid) {
            Some(status) if pod.status.as_ref() != Some(status) => {
                let mut pod = (**pod).clone();
                pod.status = Some(status.clone());
                Arc::new(pod)
            }
            _ => Arc::clone(pod),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::action::{Call, CriCall};
    use crate::config::Config;
    use crate::event::{CriReply, Event};
    use crate::observation::RuntimeVersion;
    use crate::time::{Mono, Now};

    // NODE-130: usage is measured where pods are, whatever driver is set.
    #[test]
    fn pods_cgroup_is_named_as_the_runtime_wants_it() {
        let mut config = Config::new("n1");
        config.cgroups.root = "/keel".to_owned();
        let mut kubelet = Kubelet::new(Arc::new(config), 1);
        let now = Now { mono: Mono::from_start(Duration::from_secs(1)), wall: jiff::Timestamp::UNIX_EPOCH };
        let mut actions = Vec::new();
        kubelet.handle(now, Event::Started, &mut actions);
        assert_eq!(kubelet.pods_cgroup(), "/keel/kubepods");
        for action in std::mem::take(&mut actions) {
            let reply = match action.call {
                Call::Cri(CriCall::Version) => CriReply::Version(RuntimeVersion::default()),
                Call::Cri(CriCall::RuntimeConfig) => CriReply::RuntimeConfig { systemd_cgroup: Some(true) },
                _ => continue,
            };
            kubelet.handle(now, Event::CriDone { id: action.id, outcome: Ok(reply) }, &mut actions);
        }
        assert_eq!(kubelet.pods_cgroup(), "/keel.slice/keel-kubepods.slice");
    }
}
