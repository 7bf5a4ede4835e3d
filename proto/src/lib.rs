//! What goes over the wires between the node agent and its neighbours on the node: messages, clients, servers.
//! Upstream: staging/src/k8s.io/cri-api/pkg/apis/runtime/v1/api.proto.
//! Differs: nothing on purpose in what is sent; debug output hides registry credentials.

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
