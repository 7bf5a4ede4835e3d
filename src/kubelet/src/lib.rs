//! What a node agent decides. Pure: no clock, no randomness but the seeded, no I/O, no async.
//!
//! [`event::Event`] is all that can happen, [`action::Action`] all that can be asked for, and everything in between is a
//! function of (specification, observation, a small record, now). Read in this order: `event`, `action`, `observation`,
//! `kubelet` (routes), `pod::worker` (one pod), `pod::actions` (what to start and stop), `pod::status` (what to report).

pub mod action;
pub mod admission;
pub mod alarms;
pub mod backoff;
pub mod cache;
pub mod call_names;
pub mod canonical_quantity;
pub mod config;
pub mod csi;
pub mod event;
pub mod facts;
pub mod failure;
pub mod feature_gates;
mod go_json;
pub mod housekeeping;
pub mod ids;
pub mod images;
pub mod kubelet;
pub mod limits;
pub mod node;
pub mod node_files;
pub mod observation;
mod operation_backoff;
pub mod out;
pub mod parts;
pub mod pleg;
pub mod plugins;
pub mod pod;
pub mod prober;
pub mod quantity;
pub mod quarantine;
pub mod recorder;
pub mod resources;
pub mod rng;
pub mod sensitive;
pub mod snapshot;
pub mod startup;
mod static_pods;
pub mod status_manager;
pub mod status_patch;
pub mod subjects;
pub mod time;
pub mod tokens;
pub mod unreadable;
pub mod volumes;
pub mod work;
pub mod workers;

#[cfg(test)]
mod fuzz_tests;
