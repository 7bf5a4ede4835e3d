//! Live tests: the daemon against a containerd and a pretend API server, on any Linux machine that has what they need (as root:
//! containerd, runc, CNI plugins, a static busybox). Everything runs in namespaces of its own and leaves nothing behind.
//!
//! `KEELSON_LIVE=word` runs the parts whose names contain it; `KEELSON_BINARY` tests that binary instead of the one of this tree;
//! `KEELSON_CONTAINERD_BIN` names the directory of another containerd; `KEELSON_LIVE_KEEP=1` keeps the files of the run.
#![expect(clippy::disallowed_methods, reason = "real time, and threads that wait for it, are what these tests are about")]

pub(crate) mod agent;
mod agent_restart;
pub(crate) mod api;
pub(crate) mod bed;
mod containerd;
mod containers;
pub(crate) mod csi;
pub(crate) mod enclosure;
mod golden;
pub(crate) mod image;
mod inputs;
mod node;
mod pods;
mod probes;
pub(crate) mod requirements;
pub(crate) mod site;
mod streams;
pub(crate) mod suite;
pub(crate) mod wait;
mod websocket;

use bed::Bed;
use suite::Part;

/// One test, not many, because its parts share a containerd and must come one after another, whatever runs them.
#[test]
fn the_agent_runs_pods_on_containerd() {
    let parts: &[(&str, Part<Bed>)] = &[
        // NODE-040, NODE-066, NODE-080, NODE-087, NODE-106
        ("node_is_ready_within_five_seconds", node::is_ready_within_five_seconds),
        // POD-166, POD-291, API-080, API-085, API-087 to API-089
        ("pod_runs_and_its_log_can_be_read", pods::runs_and_its_log_can_be_read),
        // API-100, API-102, API-105, API-107, API-110, API-113
        ("streams_reach_containers_and_ports", streams::reach_containers_and_ports),
        // API-100, API-102, API-105
        ("kubectl_runs_commands_in_containers", streams::kubectl_runs_commands_in_containers),
        // POD-168 to POD-171, POD-185
        ("environment_comes_from_everywhere", inputs::environment_comes_from_everywhere),
        // VOL-024, POD-173, POD-174
        ("volumes_hold_objects_and_follow_their_changes", inputs::volumes_hold_objects_and_follow_their_changes),
        // TOK-001
        ("service_account_token_is_the_pods_own", inputs::service_account_token_is_the_pods_own),
        // CSI-001, CSI-003, CSI-004, CSI-006, CSI-008, CSI-010, CSI-013, CSI-014, VOL-007, VOL-016, VOL-017, VOL-027
        ("claim_is_mounted_by_its_driver", csi::claim_is_mounted_by_its_driver),
        // POD-101, POD-148, POD-178 to POD-180, NODE-131, NODE-134, NODE-135, API-121
        ("resources_reach_the_cgroups", containers::resources_reach_the_cgroups),
        // POD-176, POD-177
        ("security_context_binds_the_process", containers::security_context_binds_the_process),
        // POD-150, POD-298
        ("host_network_pod_has_the_nodes_address", containers::host_network_pod_has_the_nodes_address),
        // POD-117, POD-123, POD-125, POD-296
        ("init_containers_run_in_order", containers::init_containers_run_in_order),
        // POD-175, POD-292
        ("termination_message_is_what_the_container_left", containers::termination_message_is_what_the_container_left),
        // POD-228, POD-229, POD-266
        ("hook_and_grace_come_before_the_kill", containers::hook_and_grace_come_before_the_kill),
        // POD-129, POD-225, POD-226, POD-293, POD-306
        ("crash_loop_backs_off", containers::crash_loop_backs_off),
        // POD-243, POD-246 to POD-248, POD-251
        ("each_kind_of_probe_makes_its_container_ready", probes::each_kind_of_probe_makes_its_container_ready),
        // POD-120, POD-244
        ("failed_liveness_restarts_the_container", probes::failed_liveness_restarts_the_container),
        // DIR-002, DIR-003, DIR-008 to DIR-010, LOG-005, VTY-001, VTY-007, VTY-008, AWR-001, NODE-134, NODE-135
        ("files_and_cgroups_are_as_a_kubelet_makes_them", golden::files_and_cgroups_are_as_a_kubelet_makes_them),
        // POD-202, POD-225, POD-306
        ("events_are_those_of_a_kubelet", golden::events_are_those_of_a_kubelet),
        // POD-268, POD-270, POD-343, NODE-136, VOL-031
        ("deletion_leaves_nothing", pods::deletion_leaves_nothing),
        // NODE-260, API-294
        ("stopped_agent_leaves_containers_running", agent_restart::stopped_agent_leaves_containers_running),
        // POD-090, POD-250, NODE-261, NODE-262
        ("killed_agent_takes_over_what_runs", agent_restart::killed_agent_takes_over_what_runs),
        // API-360, API-362
        ("agent_is_never_refused_anything", node::is_never_refused_anything),
    ];
    suite::run("live tests", parts, || Ok(Bed::up(requirements::machine()?)), Bed::delete_all_pods, Bed::down);
}
