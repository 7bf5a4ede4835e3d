//! A pretend API server, container runtime and host, with faults, scenarios and invariants. Pure: time is an argument.

pub mod api;
pub mod cluster;
pub mod csi;
pub mod faults;
pub mod host;
pub mod invariants;
pub mod liveness;
pub mod manifests;
#[cfg(test)]
mod mutations;
pub mod poison;
pub mod runtime;
pub mod scenario;
pub mod swarm;
pub mod world;
