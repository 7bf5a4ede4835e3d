//! What goes over the wires between the node agent and its neighbours on the node: messages, clients, servers.
//! Upstream: staging/src/k8s.io/cri-api/pkg/apis/runtime/v1/api.proto, staging/src/k8s.io/kubelet/pkg/apis/pluginregistration/v1/api.proto,
//! github.com/container-storage-interface/spec/csi.proto.
//! Differs: nothing on purpose in what is sent; debug output hides credentials.

mod json;
#[cfg(test)]
mod tests;

/// CRI v1 (`runtime.v1`) as of Kubernetes 1.36, generated from `cri.proto`.
///
/// Messages are always here, and serialise to JSON in the form of upstream's Go structs: the proto's field names,
/// defaults left out, enums as numbers. `runtime_service_client::RuntimeServiceClient` and
/// `image_service_client::ImageServiceClient` need the feature `client`; `runtime_service_server` and
/// `image_service_server` (the traits `RuntimeService` and `ImageService`, and their tower services) need `server`.
pub mod cri {
    // Generated code is not ours to lint.
    #![allow(warnings, clippy::all, clippy::pedantic, rustdoc::all)]
    include!("gen/runtime.v1.rs");
}

/// CSI v1 (`csi.v1`), the services of identity and node, generated from `csi.proto`. Clients and servers as in [`cri`].
pub mod csi {
    // Generated code is not ours to lint.
    #![allow(warnings, clippy::all, clippy::pedantic, rustdoc::all)]
    include!("gen/csi.v1.rs");
}

/// Plugin registration v1 (`pluginregistration`), generated from `pluginregistration.proto`. Clients and servers as in [`cri`].
pub mod pluginregistration {
    // Generated code is not ours to lint.
    #![allow(warnings, clippy::all, clippy::pedantic, rustdoc::all)]
    include!("gen/pluginregistration.rs");
}

/// What csi.proto marks debug_redact is secret, and a pod's tokens may be among the volume's attributes: only the keys are told.
macro_rules! debug_of_a_volume {
    ($($request:ident { $($path:ident),+ } $($keys:ident),*;)+) => {
        $(impl std::fmt::Debug for csi::$request {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($request))
                    .field("volume_id", &self.volume_id)
                    $(.field(stringify!($path), &self.$path))+
                    .field("volume_capability", &self.volume_capability)
                    $(.field(stringify!($keys), &self.$keys.keys().collect::<Vec<_>>()))*
                    .finish()
            }
        })+
    };
}

debug_of_a_volume! {
    NodeStageVolumeRequest { staging_target_path } publish_context, secrets, volume_context;
    NodePublishVolumeRequest { staging_target_path, target_path, readonly } publish_context, secrets, volume_context;
    NodeExpandVolumeRequest { volume_path, staging_target_path, capacity_range } secrets;
}

impl std::fmt::Debug for cri::AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The fields that cri.proto marks debug_redact are secrets; say only whether they are set.
        let hidden = |secret: &str| if secret.is_empty() { "" } else { "[REDACTED]" };
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("password", &hidden(&self.password))
            .field("auth", &hidden(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &hidden(&self.identity_token))
            .field("registry_token", &hidden(&self.registry_token))
            .finish()
    }
}
