//! Does what its time has come for, part by part: one that fails is left alone for a while, and keeps no other one back.
//! Upstream: the goroutines that pkg/kubelet/kubelet.go (Run) starts.
//! Differs: one after the other.

use super::Kubelet;
use crate::node::conditions::Pressures;
use crate::node::manager::NodeFacts;
use crate::out::Out;
use crate::time::{Mono, Now};

/// What has something to do at times of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Startup,
    Runtime,
    Pleg,
    Images,
    Volumes,
    Objects,
    Tokens,
    Statuses,
    Prober,
    Node,
    Plugins,
    Lease,
    Workers,
    Housekeeping,
    StaticPods,
    Unreadables,
    /// Driven after every event; what it waits for is among the volumes' moments.
    Drivers,
    Recorder,
}

impl Part {
    pub(super) const ALL: [Self; 18] = [
        // First of all: whatever the others take, it is renewed.
        Self::Lease,
        Self::Startup,
        Self::Runtime,
        Self::Pleg,
        Self::StaticPods,
        Self::Images,
        Self::Volumes,
        Self::Objects,
        Self::Tokens,
        Self::Statuses,
        Self::Prober,
        Self::Node,
        Self::Plugins,
        Self::Workers,
        Self::Housekeeping,
        Self::Unreadables,
        Self::Drivers,
        Self::Recorder,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Runtime => "runtime",
            Self::Pleg => "pleg",
            Self::Images => "images",
            Self::Volumes => "volumes",
            Self::Objects => "objects",
            Self::Tokens => "tokens",
            Self::Statuses => "statuses",
            Self::Prober => "prober",
            Self::Node => "node",
            Self::Plugins => "plugins",
            Self::Lease => "lease",
            Self::Workers => "workers",
            Self::Housekeeping => "housekeeping",
            Self::StaticPods => "static pods",
            Self::Unreadables => "unreadable objects",
            Self::Drivers => "drivers",
            Self::Recorder => "recorder",
        }
    }
}

impl Kubelet {
    pub(super) fn deadline_of(&self, part: Part) -> Option<Mono> {
        let parts = &self.parts;
        match part {
            Part::Startup => parts.startup.deadline(),
            Part::Runtime => parts.runtime.deadline(),
            Part::Pleg => self.pleg.deadline(),
            Part::Images => parts.images.deadline(),
            Part::Volumes => parts.volumes.deadline(),
            Part::Objects => parts.objects.deadline(),
            Part::Tokens => parts.tokens.deadline(),
            Part::Statuses => parts.statuses.deadline(),
            Part::Prober => parts.prober.deadline(),
            Part::Node => parts.node.deadline(),
            Part::Plugins => parts.plugins.deadline(),
            Part::Lease if parts.config.node.standalone => None,
            Part::Lease => self.lease.deadline(),
            Part::Workers => self.quarantine.deadline(),
            Part::Housekeeping => self.housekeeping.deadline(),
            Part::StaticPods => self.static_pods.deadline(),
            Part::Unreadables => self.unreadable.deadline(),
            Part::Drivers => None,
            Part::Recorder => self.recorder.deadline(),
        }
    }

    /// Everything whose time has come.
    pub(super) fn due(&mut self, now: Now, out: &mut Out<'_>) {
        for part in Part::ALL {
            self.guarded(now, part, out, |kubelet, out| kubelet.part_due(now, part, out));
        }
    }

    fn part_due(&mut self, now: Now, part: Part, out: &mut Out<'_>) {
        let parts = &mut self.parts;
        match part {
            Part::Lease if parts.config.node.standalone => {}
            Part::Lease => self.lease.due(now, out),
            Part::Startup => parts.startup.due(now, out),
            Part::Runtime => {
                if parts.runtime.due(now, out).changed {
                    parts.node.hurry();
                    self.dirty.extend(self.workers.keys().cloned());
                }
            }
            Part::Pleg => self.pleg.due(now, out),
            // NODE-160: pods are judged by the machine and by what the runtime says that it can do: before that is known, there are none.
            Part::StaticPods => {
                let judged_by = parts.startup.machine().is_some() && parts.runtime.has_told();
                self.static_pods.due(now, judged_by, out);
            }
            Part::Images => self.dirty.extend(parts.images.due(now, out)),
            Part::Volumes => self.dirty.extend(parts.volumes.due(now)),
            Part::Objects => self.dirty.extend(parts.objects.due(now)),
            Part::Tokens => self.dirty.extend(parts.tokens.due(now, out)),
            Part::Statuses => parts.statuses.due(now, out),
            Part::Prober => parts.prober.due(now, out),
            Part::Node => self.node_due(now, out),
            Part::Plugins => {
                if parts.startup.is_done() {
                    parts.plugins.look(now, &parts.config.paths.root, out);
                }
                parts.plugins.due(now, parts.node.plugin_facts(), out);
            }
            Part::Workers => self.workers_due(now, out),
            Part::Housekeeping => self.keep_house(now, out),
            Part::Unreadables => self.unreadable.due(now, out),
            // After all others: see `handle`.
            Part::Drivers | Part::Recorder => {}
        }
    }

    fn node_due(&mut self, now: Now, out: &mut Out<'_>) {
        let parts = &mut self.parts;
        let pleg_error = self.pleg.unhealthy(now.mono);
        let volumes_in_use = parts.volumes.csi.in_use();
        let facts = NodeFacts {
            machine: parts.startup.machine(),
            runtime: &parts.runtime,
            runtime_known: parts.runtime.has_told() && self.pleg.has_listed() && parts.startup.is_done(),
            startup_error: parts.startup.last_error(),
            pleg_error: pleg_error.as_deref(),
            images: self.housekeeping.images(),
            pressures: Pressures::default(),
            volumes_in_use: volumes_in_use.as_ref(),
        };
        parts.node.due(now, &facts, &mut parts.rng, out);
    }

    fn workers_due(&mut self, now: Now, out: &mut Out<'_>) {
        self.start_postponed(now, out);
        for uid in self.alarms.due(now.mono) {
            if let Some(worker) = self.workers.get_mut(uid) {
                worker.time_passed(now);
            }
            self.dirty.insert(uid.clone());
        }
        self.release(now, out);
    }
}
