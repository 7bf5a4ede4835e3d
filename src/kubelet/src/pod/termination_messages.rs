//! Decides how much of what containers said at their end a pod's status tells.
//! Upstream: pkg/kubelet/status/status_manager.go (normalizeStatus), pkg/kubelet/container/runtime.go.
//! Differs: nothing on purpose.

use k8s_openapi::api::core::v1::{ContainerStatus, PodSpec, PodStatus};

/// What the messages of a pod take together, in bytes (upstream's MaxPodTerminationMessageLogLength).
const OF_POD: usize = 12 << 10;

/// Cuts the messages of a pod's containers so that together they take 12 KiB at most, the same for each (POD-175).
pub fn share_messages(spec: &PodSpec, status: &mut PodStatus) {
    let others = [spec.init_containers.as_ref().map(Vec::len), spec.ephemeral_containers.as_ref().map(Vec::len)];
    let containers = spec.containers.len() + others.into_iter().flatten().sum::<usize>();
    let limit = OF_POD / containers.max(1);
    let lists = [&mut status.container_statuses, &mut status.init_container_statuses, &mut status.ephemeral_container_statuses];
    for container in lists.into_iter().flatten().flatten() {
        share(container, limit);
    }
}

fn share(container: &mut ContainerStatus, limit: usize) {
    for state in [&mut container.state, &mut container.last_state].into_iter().flatten() {
        if let Some(message) = state.terminated.as_mut().and_then(|ended| ended.message.as_mut()) {
            cut(message, limit);
        }
    }
}

/// Go cuts bytes, and writes each that is left of a character as U+FFFD.
fn cut(message: &mut String, limit: usize) {
    if message.len() > limit {
        let whole = message.floor_char_boundary(limit);
        message.truncate(whole);
        message.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, limit - whole));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(said: &str, containers: usize, inits: usize) -> Vec<usize> {
        let names =
            |prefix: &str, count: usize| -> Vec<_> { (0..count).map(|n| json!({"name": format!("{prefix}{n}")})).collect() };
        let spec = json!({"containers": names("c", containers), "initContainers": names("i", inits)});
        let ended = json!({"terminated": {"exitCode": 0, "message": said}});
        let statuses = |specs: Vec<serde_json::Value>| -> Vec<_> {
            let one = |c: serde_json::Value| {
                json!({"name": c["name"], "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": ended, "lastState": ended})
            };
            specs.into_iter().map(one).collect()
        };
        let status =
            json!({"containerStatuses": statuses(names("c", containers)), "initContainerStatuses": statuses(names("i", inits))});
        let mut status: PodStatus = serde_json::from_value(status).unwrap();
        share_messages(&serde_json::from_value(spec).unwrap(), &mut status);
        let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let states = all.flat_map(|c| [&c.state, &c.last_state]).flatten();
        states.map(|s| s.terminated.as_ref().unwrap().message.as_ref().unwrap().len()).collect()
    }

    // POD-175: as a kubelet 1.36.2 was recorded (056 and 057): four containers, one of them an init container, with 4090 bytes each have
    // 3072; one alone keeps its 4096.
    #[test]
    fn messages_of_a_pod_share_twelve_kibibytes() {
        assert_eq!(told(&"0123456789".repeat(409), 3, 1), [3072; 8]);
        assert_eq!(told(&"x".repeat(4096), 1, 0), [4096; 2]);
        assert_eq!(told(&"x".repeat(6000), 6, 0), [2048; 12]);
    }

    // POD-175: `Message[:bytesPerStatus]` in Go leaves bytes of a character, which encoding/json writes as U+FFFD each.
    #[test]
    fn cut_character_is_told_as_go_tells_it() {
        let of = |text: &str, limit| {
            let mut text = text.to_owned();
            cut(&mut text, limit);
            text
        };
        assert_eq!(of("gr\u{fc}n", 3), "gr\u{fffd}");
        assert_eq!(of("\u{4e16}\u{754c}", 5), "\u{4e16}\u{fffd}\u{fffd}");
        assert_eq!(of("\u{4e16}", 3), "\u{4e16}");
    }
}
