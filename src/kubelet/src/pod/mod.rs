//! One pod: what should run of it, what does, what to do about it and what to report.

pub mod actions;
pub mod batch;
pub mod conditions;
pub mod dns;
pub mod hash;
pub mod hosts;
pub mod manager;
pub mod restart;
pub mod stop;
pub mod worker;
