//! The node agent: runs the kubelet's decisions against an API server, a container runtime and a Linux host.
//!
//! `run` wires an [`env::Env`] to the event loop; everything else is an adapter behind one of the five traits of `env`.

pub mod api;
mod bounds;
mod call_log;
mod call_metrics;
pub mod certificate;
pub mod client_certificate;
pub mod config;
mod containment;
pub mod cri;
pub mod daemon;
pub mod env;
pub mod event_loop;
pub mod executor;
mod go_http;
mod go_text;
mod grpc;
pub mod host;
pub mod lanes;
pub mod log_lines;
mod loop_gauge;
pub mod manifest_events;
pub mod manifest_url;
pub mod net;
pub mod plugins;
pub mod probe;
pub mod reloading;
pub mod run;
pub mod runtime_events;
pub mod server;
pub mod serving_certificate;
pub mod standalone;
pub mod telemetry;
mod termination_message;
pub mod tls;
pub mod view;
pub mod watchdog;

#[cfg(test)]
#[path = "../../../tests/fuzz/mangled.rs"]
mod mangled;
