//! What judges the whole: house rules, the conformance page, scenarios, determinism, live and cluster tests. One binary, so
//! that everything links once.

mod cluster;
mod conformance;
mod corpus;
mod differs;
mod documents;
mod faults;
mod live;
mod scenarios;
mod source;
mod spec_cost;
mod tidy;
