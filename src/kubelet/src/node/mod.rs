//! The node: what it registers, what it reports, how it shows that it lives.

pub mod lease;
pub mod runtime_health;
