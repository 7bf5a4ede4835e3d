//! Decides which spec a container was made from, so that a changed one is noticed and an unchanged one is left alone.
//! Upstream: pkg/kubelet/container/helpers.go (HashContainer), pkg/util/hash/hash.go.
//! Differs: nothing on purpose: the same value adopts containers that upstream started.

use k8s_openapi::api::core::v1::Container;
use serde_json::json;

use crate::go_json;

/// FNV-1a over what Go prints of the bytes of `{"image":..,"name":..}` (POD-122), as lower-case hex.
#[must_use]
pub fn container_hash(container: &Container) -> String {
    format!("{:x}", hash(container.image.as_deref().unwrap_or_default(), &container.name))
}

fn hash(image: &str, name: &str) -> u32 {
    let json = json!({"image": image, "name": name}).to_string();
    let decimals: Vec<String> = go_json::escaped(&json).bytes().map(|byte| byte.to_string()).collect();
    let printed = format!("([]uint8)[{}]", decimals.join(" "));
    printed.bytes().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    // POD-122
    #[test]
    fn hash_is_upstreams() {
        assert_eq!(hash("foo/image:v1", "test_container"), 0x8e45_cbd0);
        // Of the golden pod's container.
        assert_eq!(format!("{:x}", hash("docker.io/library/busybox:latest", "main")), "85580d84");
    }
}
