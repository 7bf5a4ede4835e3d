//! The node: what it registers, what it reports, how it shows that it lives.

pub mod addresses;
pub mod certificates;
pub mod conditions;
pub mod lease;
pub mod manager;
pub mod registration;
pub mod runtime_health;
pub mod status;
