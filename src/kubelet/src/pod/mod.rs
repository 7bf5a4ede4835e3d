//! One pod: what should run of it, what does, what to do about it and what to report.

pub mod batch;
pub mod manager;
pub mod restart;
pub mod stop;
pub mod worker;
