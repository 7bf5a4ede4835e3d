//! Stage `model` as the cluster that scenarios and swarms work on.
//! Upstream: none.
//! Differs: nothing on purpose.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Link, World};
use crate::api::ApiModel;
use crate::cluster::Cluster;
use crate::faults::FaultPlan;
use crate::host::HostModel;
use crate::invariants::Witness;
use crate::poison::Poisons;
use crate::runtime::RuntimeModel;
use crate::scenario::expect::View;
use crate::scenario::run::view;

impl Cluster for World {
    fn elapsed(&self) -> Duration {
        self.elapsed
    }

    fn look<T>(&self, look: impl FnOnce(View<'_>) -> T) -> T {
        look(view(self))
    }

    fn with_api<T>(&mut self, deed: impl FnOnce(&mut ApiModel, Timestamp) -> T) -> T {
        let now = self.now();
        deed(&mut self.api, now)
    }

    fn with_runtime<T>(&mut self, deed: impl FnOnce(&mut RuntimeModel, Timestamp) -> T) -> T {
        let now = self.now();
        deed(&mut self.runtime, now)
    }

    fn with_host<T>(&mut self, deed: impl FnOnce(&mut HostModel) -> T) -> T {
        deed(&mut self.host)
    }

    fn with_faults<T>(&mut self, deed: impl FnOnce(&mut FaultPlan) -> T) -> T {
        deed(&mut self.faults)
    }

    fn with_poisons<T>(&mut self, deed: impl FnOnce(&mut Poisons) -> T) -> T {
        deed(&mut self.poisons)
    }

    fn with_witness<T>(&mut self, deed: impl FnOnce(&mut Witness) -> T) -> T {
        deed(&mut self.witness)
    }

    fn lose_hints(&mut self, one_in: u64) {
        self.hints_lost = one_in;
    }

    fn run_while(&mut self, until: Duration, goes_on: impl Fn(View<'_>) -> bool) -> bool {
        Self::run_while(self, until, |world| goes_on(view(world)))
    }

    fn handled(&self) -> u64 {
        self.handled
    }

    fn is_alive(&self) -> bool {
        self.life.is_some()
    }

    fn crash(&mut self, back_after: Option<Duration>) {
        Self::crash(self, back_after);
    }

    fn crash_after(&mut self, events: u64, back_after: Duration) {
        self.crash_after = Some((self.handled + events, back_after));
    }

    fn jump_clock(&mut self, by: SignedDuration) {
        Self::jump_clock(self, by);
    }

    fn restart_api(&mut self, away: Duration) {
        Self::restart_api(self, away);
    }

    fn silence_api(&mut self, silent: Duration) {
        Self::silence_api(self, silent);
    }

    fn compact_api(&mut self) {
        self.api.store.compact();
        self.watches_lose_their_place();
    }

    fn restart_runtime(&mut self, away: Duration, containers_die: bool) {
        Self::restart_runtime(self, away, containers_die);
    }

    fn heal_links(&mut self) {
        if self.api_link == Link::Silent {
            self.api_link = Link::Up;
            self.watches_lose_their_place();
        }
        if self.runtime_link == Link::Silent {
            self.runtime_link = Link::Up;
        }
    }

    fn note(&mut self, text: &str) {
        Self::note(self, text);
    }
}
