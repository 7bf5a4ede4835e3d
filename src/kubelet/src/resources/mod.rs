//! What pods ask for, what they get, and the cgroups that hold them to it.

pub mod allocated;
pub mod cgroup;
pub mod qos;
pub mod reported;
pub mod requests;
pub mod swap;
