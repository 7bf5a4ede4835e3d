//! Cluster tests: the daemon against containerd and a real API server, whose programs `KUBEBUILDER_ASSETS` names. What only such a
//! one can tell: whether a node identity may do all that the agent does, and whether what clients really say is understood.

mod agent_restart;
mod bootstrap;
mod claims;
pub(crate) mod control_plane;
mod deployment;
mod join;
mod node;
mod pods;
mod schema;
mod streams;
mod watch;

use std::time::{Duration, Instant};

use model::api::authorize::Identity;
use serde_json::Value;

use self::control_plane::{ControlPlane, Programs};
use crate::live::agent::{Agent, NODE};
use crate::live::bed::is_ready;
use crate::live::requirements::{self, Machine};
use crate::live::site::Site;
use crate::live::suite::{self, Part};
use crate::live::wait::until;

/// How long anything may take, on a machine that is busy with a compiler.
const SOON: Duration = Duration::from_secs(60);

#[test]
fn the_agent_serves_a_real_api_server() {
    let parts: &[(&str, Part<Cluster>)] = &[
        // NODE-040, NODE-066, NODE-080, NODE-115, NODE-116
        ("node_is_ready_within_five_seconds", node::is_ready_within_five_seconds),
        // TOK-001, API-340, POD-270, POD-301
        ("a_pods_whole_life", pods::live_and_go),
        // API-100, API-102, API-105, API-106
        ("streams_reach_containers_and_ports", streams::reach_containers_and_ports),
        // POD-225
        ("crash_loop_backs_off_ten_twenty_forty", pods::crash_loop_backs_off),
        // CSI-003, CSI-006, CSI-007, CSI-017, VOL-016, API-340
        ("claim_is_attached_mounted_and_given_back", claims::attached_mounted_and_given_back),
        // POD-090, POD-268, POD-301, POD-343, TOK-001
        ("deployment_rolls_over_its_pods", deployment::rolls_over_its_pods),
        // POD-090, POD-250, NODE-261, NODE-262, API-130
        ("many_pods_survive_the_agents_death", agent_restart::many_pods_survive_the_agents_death),
        // API-341, API-360, API-362, API-363
        ("a_node_identity_is_enough", node::identity_is_enough),
        // POD-008
        ("table_of_pod_fields_is_complete", schema::table_of_pod_fields_is_complete),
        // API-190, API-191, API-193, API-194, API-195
        ("a_bootstrap_token_is_enough_to_join", join::token_is_enough),
    ];
    let up = || {
        let programs = Programs::find()?;
        Ok(Cluster::up(requirements::machine()?, programs))
    };
    suite::run("cluster tests", parts, up, Cluster::delete_all_pods, Cluster::down);
}

/// A runtime, a control plane and an agent.
struct Cluster {
    site: Site,
    plane: ControlPlane,
    agent: Agent,
    /// When the agent was started last.
    started: Instant,
}

impl Cluster {
    fn up(machine: Machine, programs: Programs) -> anyhow::Result<Self> {
        let site = Site::up(machine)?;
        let started = || -> anyhow::Result<(ControlPlane, Agent)> {
            let plane = ControlPlane::start(&site, programs)?;
            plane.furnish()?;
            let agent = site.start_agent(&plane.kubeconfig(&Identity::node(NODE))?, &plane.pki.ca_certificate)?;
            Ok((plane, agent))
        };
        match started() {
            Ok((plane, agent)) => Ok(Self { site, plane, agent, started: now() }),
            Err(error) => {
                site.down(true, &["control-plane/etcd.log", "control-plane/apiserver.log"])?;
                Err(error)
            }
        }
    }

    fn down(self, failed: bool) -> anyhow::Result<()> {
        let logs = ["control-plane/etcd.log", "control-plane/controllers.log", "agent/keelson.log", "joiner/keelson.log"];
        self.site.down(failed, &logs)
    }

    /// Deletes all pods, as between two tests.
    fn delete_all_pods(&self) -> anyhow::Result<()> {
        self.plane.kubectl(&["delete", "pods", "--all", "--timeout=80s"], "").map(drop)
    }

    /// Waits until a pod is Ready.
    fn pod_ready(&self, name: &str) -> anyhow::Result<Value> {
        until(&format!("pod {name} Ready"), SOON, || match self.plane.get(&format!("pod/{name}")) {
            Ok(Some(pod)) if is_ready(&pod) => Ok(pod),
            Ok(Some(pod)) => Err(format!("{} {}", pod["status"], self.plane.kubectl(&["get", "events"], "").unwrap_or_default())),
            other => Err(format!("{other:?}")),
        })
    }

    /// What the agent answers to a request that the API server carries on to it.
    fn proxied(&self, path: &str) -> anyhow::Result<String> {
        self.plane.raw(&format!("/api/v1/nodes/{NODE}/proxy/{path}"))
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing is simulated here")]
fn now() -> Instant {
    Instant::now()
}
