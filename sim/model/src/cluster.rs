//! What scenarios and swarms do to a cluster of one node, and see of it, in whichever stage it runs.
//! Upstream: none.
//! Differs: nothing on purpose.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::api::ApiModel;
use crate::faults::FaultPlan;
use crate::host::HostModel;
use crate::invariants::Witness;
use crate::poison::Poisons;
use crate::runtime::RuntimeModel;
use crate::scenario::expect::View;

/// A cluster of one node in pretend time. What is done to its models from here, everybody notices as they would in the world.
pub trait Cluster {
    /// How long the run has lasted.
    fn elapsed(&self) -> Duration;

    /// Looks at all of it.
    fn look<T>(&self, look: impl FnOnce(View<'_>) -> T) -> T;

    /// Does something to the API server, at its time of day.
    fn with_api<T>(&mut self, deed: impl FnOnce(&mut ApiModel, Timestamp) -> T) -> T;

    /// Does something to the runtime, at its time of day.
    fn with_runtime<T>(&mut self, deed: impl FnOnce(&mut RuntimeModel, Timestamp) -> T) -> T;

    /// Does something to the machine.
    fn with_host<T>(&mut self, deed: impl FnOnce(&mut HostModel) -> T) -> T;

    /// Does something to the faults to come.
    fn with_faults<T>(&mut self, deed: impl FnOnce(&mut FaultPlan) -> T) -> T;

    /// Does something to the panics to come.
    fn with_poisons<T>(&mut self, deed: impl FnOnce(&mut Poisons) -> T) -> T;

    /// Tells what watches over the run.
    fn with_witness<T>(&mut self, deed: impl FnOnce(&mut Witness) -> T) -> T;

    /// From now on one hint of the runtime in that many gets lost; 0 is none.
    fn lose_hints(&mut self, one_in: u64);

    /// Runs until that much time has passed since the run began, or `goes_on` says no; true if it said no.
    fn run_while(&mut self, until: Duration, goes_on: impl Fn(View<'_>) -> bool) -> bool;

    /// Runs until that much time has passed since the run began.
    fn run_until(&mut self, until: Duration) {
        self.run_while(until, |_| true);
    }

    /// How many events the agent has handled, in all its lives.
    fn handled(&self) -> u64;

    /// Whether the agent lives.
    fn is_alive(&self) -> bool;

    /// Kills the agent, if it lives: what it had sent is on its way, and nobody waits for the answers. It starts again later, if
    /// told.
    fn crash(&mut self, back_after: Option<Duration>);

    /// Kills the agent once it has handled that many more events, and starts it again later.
    fn crash_after(&mut self, events: u64, back_after: Duration);

    /// The node's wall clock jumps.
    fn jump_clock(&mut self, by: SignedDuration);

    /// The API server restarts: it refuses connections for a while, and its watches begin anew.
    fn restart_api(&mut self, away: Duration);

    /// Nothing comes through between the agent and the API server for a while.
    fn silence_api(&mut self, silent: Duration);

    /// For a while whatever is sent between the agent and the API server is lost, and so is every connection that was in use, without
    /// either side being told: as behind a gateway that forgot them.
    fn forget_api(&mut self, lost: Duration) {
        self.silence_api(lost);
    }

    /// The API server compacts its history: watches get 410 and list anew.
    fn compact_api(&mut self);

    /// The runtime restarts: it is away for a while; containers live on or not.
    fn restart_runtime(&mut self, away: Duration, containers_die: bool);

    /// What was silent speaks again.
    fn heal_links(&mut self);

    /// Adds a line to what happened, if it is kept.
    fn note(&mut self, text: &str);
}
