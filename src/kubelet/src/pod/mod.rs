//! One pod: what should run of it, what does, what to do about it and what to report.

pub mod actions;
pub mod batch;
pub mod chain;
pub mod conditions;
pub mod configs;
pub mod container_config;
pub mod dns;
pub mod env;
pub mod fields;
pub mod hash;
pub mod held;
pub mod hook;
pub mod hosts;
pub mod labels;
pub mod manager;
pub mod mounts;
pub mod plan;
pub mod report;
pub mod restart;
pub mod sandbox_config;
pub mod security_context;
pub mod start;
pub mod status;
pub mod status_containers;
pub mod stop;
pub mod worker;
