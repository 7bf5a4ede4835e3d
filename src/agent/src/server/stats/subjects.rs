//! Usage by cgroup: the node, all pods, each pod, each container, with what they are called.
//! Upstream: github.com/google/cadvisor/manager, pkg/kubelet/cadvisor.
//! Differs: sandboxes have no entry of their own; a container's numbers are the runtime's.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kubelet::action::CriCall;
use kubelet::event::CriReply;
use kubelet::failure::Failure;
use kubelet::observation::{ActualResources, ListedContainer, MachineInfo};
use proto::cri;

use super::collect::{Collector, FromRuntime, timestamp, value, within};
use crate::env::CgroupUsage;
use crate::server::NodeView;

/// One cgroup. Names that it has not are empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subject {
    /// The cgroup's path.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) container: String,
    pub(crate) pod: String,
    pub(crate) namespace: String,
    /// When it was measured.
    pub(crate) at: Timestamp,
    pub(crate) started: Option<Timestamp>,
    pub(crate) cpu_nanos: Option<u64>,
    pub(crate) memory: Option<u64>,
    pub(crate) working_set: Option<u64>,
    pub(crate) rss: Option<u64>,
    pub(crate) swap: Option<u64>,
    pub(crate) page_faults: Option<u64>,
    pub(crate) major_page_faults: Option<u64>,
    /// What only its cgroup tells.
    pub(crate) more: CgroupUsage,
    pub(crate) fs_bytes: Option<u64>,
    /// Bytes; 0 is none.
    pub(crate) memory_limit: Option<u64>,
    pub(crate) settings: Option<ActualResources>,
}

impl Collector {
    /// The machine, and every cgroup that is measured.
    pub(crate) async fn subjects(&self, view: &dyn NodeView) -> Result<(MachineInfo, Vec<Subject>), Failure> {
        let machine = self.machine().await?.clone();
        let runtime = self.runtime().await?;
        let mut running = runtime.running();
        let mut subjects = Vec::new();
        for cgroup in ["/".to_owned()].into_iter().chain(view.pods_cgroup().await) {
            subjects.extend(self.of_cgroup_alone(&cgroup).await);
        }
        for (uid, cgroup) in &runtime.cgroups {
            let Some(sandbox) = runtime.sandbox(uid) else { continue };
            let named = Subject { pod: sandbox.name.clone(), namespace: sandbox.namespace.clone(), ..Subject::default() };
            if let Some(subject) = self.of_cgroup_alone(cgroup).await {
                let started = Some(timestamp(sandbox.created_at));
                subjects.push(Subject { pod: named.pod.clone(), namespace: named.namespace.clone(), started, ..subject });
            }
            let containers = running.remove(uid).unwrap_or_default();
            subjects.extend(self.containers(view, &runtime, containers, cgroup, &named).await);
        }
        Ok((machine, subjects))
    }

    async fn of_cgroup_alone(&self, cgroup: &str) -> Option<Subject> {
        let usage = within(self.env.host.cgroup_usage(cgroup.to_owned())).await.ok()??;
        let CgroupUsage { cpu_nanos, memory, working_set, rss, page_faults, major_page_faults, memory_limit, swap, .. } = usage;
        Some(Subject {
            id: cgroup.to_owned(),
            at: self.env.clock.now(),
            cpu_nanos: Some(cpu_nanos),
            memory: Some(memory),
            working_set: Some(working_set.min(memory)),
            rss: Some(rss),
            swap,
            page_faults: Some(page_faults),
            major_page_faults: Some(major_page_faults),
            more: usage,
            memory_limit: Some(memory_limit.unwrap_or_default()),
            ..Subject::default()
        })
    }

    async fn containers(
        &self,
        view: &dyn NodeView,
        runtime: &FromRuntime,
        containers: BTreeMap<&str, &ListedContainer>,
        cgroup: &str,
        named: &Subject,
    ) -> Vec<Subject> {
        let Some(uid) = containers.values().next().map(|one| one.pod.clone()) else { return Vec::new() };
        let seen = view.observation(uid).await;
        let mut subjects = Vec::new();
        for (name, container) in containers {
            let Some(usage) = runtime.usage.get(container.id.as_str()) else { continue };
            let status = seen.as_ref().and_then(|seen| seen.containers.iter().find(|one| one.id == container.id));
            let settings = status.and_then(|status| status.resources);
            let id = container_cgroup(cgroup, container.id.as_str(), self.cgroup_prefix().await);
            let more = within(self.env.host.cgroup_usage(id.clone())).await.ok().flatten().unwrap_or_default();
            subjects.push(Subject {
                id,
                more,
                name: container.id.to_string(),
                image: status.map(|status| status.image.clone()).unwrap_or_default(),
                container: name.to_owned(),
                started: Some(timestamp(container.created_at)),
                memory_limit: settings.map(|settings| u64::try_from(settings.memory_limit).unwrap_or_default()),
                settings,
                ..of_runtime(usage, named, self.env.clock.now())
            });
        }
        subjects
    }

    /// What the runtime puts before a container's ID in the name of its systemd scope; it does not tell, but it is well known.
    pub(super) async fn cgroup_prefix(&self) -> &'static str {
        *self
            .scope_prefix
            .get_or_init(|| async {
                match within(self.env.runtime.call(CriCall::Version)).await {
                    Ok(CriReply::Version(version)) if version.name == "cri-o" => "crio",
                    _ => "cri-containerd",
                }
            })
            .await
    }
}

fn of_runtime(usage: &cri::ContainerStats, named: &Subject, now: Timestamp) -> Subject {
    let memory = usage.memory.as_ref();
    // A container that has just begun may have no figure of its CPU yet.
    let measured = [usage.cpu.as_ref().map(|cpu| cpu.timestamp), memory.map(|memory| memory.timestamp)];
    let of_memory = |pick: fn(&cri::MemoryUsage) -> &Option<cri::UInt64Value>| memory.and_then(|memory| value(pick(memory)));
    Subject {
        pod: named.pod.clone(),
        namespace: named.namespace.clone(),
        at: measured.into_iter().flatten().find(|at| *at > 0).map_or(now, timestamp),
        cpu_nanos: usage.cpu.as_ref().and_then(|cpu| value(&cpu.usage_core_nano_seconds)),
        memory: of_memory(|memory| &memory.usage_bytes),
        working_set: of_memory(|memory| &memory.working_set_bytes),
        rss: of_memory(|memory| &memory.rss_bytes),
        page_faults: of_memory(|memory| &memory.page_faults),
        major_page_faults: of_memory(|memory| &memory.major_page_faults),
        swap: usage.swap.as_ref().and_then(|swap| value(&swap.swap_usage_bytes)),
        fs_bytes: usage.writable_layer.as_ref().and_then(|layer| value(&layer.used_bytes)),
        ..Subject::default()
    }
}

/// The cgroup of a container below its pod's.
pub(super) fn container_cgroup(pod: &str, id: &str, prefix: &str) -> String {
    if pod.ends_with(".slice") { format!("{pod}/{prefix}-{id}.scope") } else { format!("{pod}/{id}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    // N11: cri_stats_provider.go and cAdvisor stamp what is measured with when it was: never with 1970, which Prometheus drops.
    #[test]
    fn container_without_a_figure_of_its_cpu_has_a_time() {
        let now = Timestamp::from_second(100).unwrap();
        let memory = |timestamp| Some(cri::MemoryUsage { timestamp, ..cri::MemoryUsage::default() });
        let cpu = |timestamp| Some(cri::CpuUsage { timestamp, ..cri::CpuUsage::default() });
        let at = |cpu, memory| {
            let usage = cri::ContainerStats { cpu, memory, ..cri::ContainerStats::default() };
            of_runtime(&usage, &Subject::default(), now).at.as_second()
        };
        assert_eq!(at(cpu(5_000_000_000), memory(7_000_000_000)), 5);
        assert_eq!(at(None, memory(7_000_000_000)), 7);
        assert_eq!(at(cpu(0), memory(7_000_000_000)), 7);
        assert_eq!(at(None, None), 100);
    }
}
