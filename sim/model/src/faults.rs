//! Decides which calls fail, and how: by plan (the n-th call of a name), or at random with the given odds.
//! Upstream: none.
//! Differs: one plan serves every stage; what a fault means on a wire is up to the stage.

use std::time::Duration;

use kubelet::failure::{Failure, FailureKind};
use kubelet::rng::Rng;
use serde::{Deserialize, Serialize};

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// It goes well, if the other side is well.
    Well,
    /// It fails at once, without effect.
    Fails(Failure),
    /// It has no effect, and no answer comes.
    Lost,
    /// It takes effect, but no answer comes.
    ReplyLost,
    /// It takes effect after the caller has given up: after that long.
    Late(Duration),
    /// It takes that much longer.
    Slow(Duration),
}

/// A fault that was planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// The call's name, such as `RunPodSandbox`, or `*`.
    pub call: String,
    /// How many such calls go well before.
    pub skip: u32,
    /// How many fail then.
    pub times: u32,
    /// How.
    pub fate: Fate,
}

/// Odds, each of one call in that many; 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Odds {
    /// Errors without effect.
    pub error: u64,
    /// No effect, no answer.
    pub lost: u64,
    /// Effect, but no answer.
    pub reply_lost: u64,
    /// Effect, but late.
    pub late: u64,
    /// Slow.
    pub slow: u64,
}

/// The faults of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    planned: Vec<Planned>,
    /// Odds of calls of the runtime.
    pub runtime: Odds,
    /// Odds of calls of the API server.
    pub api: Odds,
    /// Odds of operations of the host.
    pub host: Odds,
    /// Odds of calls of plugins.
    pub csi: Odds,
    /// How many faults were dealt.
    pub dealt: u64,
}

/// Which side a call goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The container runtime.
    Runtime,
    /// The API server.
    Api,
    /// The machine.
    Host,
    /// The plugins on it.
    Csi,
}

impl FaultPlan {
    /// Adds a planned fault.
    pub fn plan(&mut self, planned: Planned) {
        self.planned.push(planned);
    }

    /// No more faults.
    pub fn heal(&mut self) {
        *self = Self { dealt: self.dealt, ..Self::default() };
    }

    /// What becomes of the next call of that name.
    pub fn fate(&mut self, side: Side, call: &str, rng: &mut Rng) -> Fate {
        for planned in &mut self.planned {
            if planned.times == 0 || (planned.call != call && planned.call != "*") {
                continue;
            }
            if planned.skip > 0 {
                planned.skip -= 1;
                continue;
            }
            planned.times -= 1;
            self.dealt += 1;
            return planned.fate.clone();
        }
        let odds = match side {
            Side::Runtime => self.runtime,
            Side::Api => self.api,
            Side::Host => self.host,
            Side::Csi => self.csi,
        };
        if odds == Odds::default() {
            return Fate::Well;
        }
        let mut fate = draw(odds, side, rng);
        if call == "PullImage" && matches!(fate, Fate::Lost | Fate::ReplyLost | Fate::Late(_)) {
            // A pull takes as long as it takes, so nobody but the runtime gives one up: those that make no progress.
            fate = Fate::Fails(Failure::new(FailureKind::Other, "failed to pull and unpack image: context canceled"));
        }
        if fate != Fate::Well {
            self.dealt += 1;
        }
        fate
    }
}

fn draw(odds: Odds, side: Side, rng: &mut Rng) -> Fate {
    let mut hits = |one_in: u64| one_in > 0 && rng.below(one_in) == 0;
    if hits(odds.error) {
        return Fate::Fails(match side {
            Side::Runtime => Failure::new(FailureKind::Other, "rpc error: code = Unknown desc = injected"),
            Side::Api if hits(3) => {
                Failure::new(FailureKind::Throttled { after: Some(Duration::from_secs(1)) }, "too many requests")
            }
            Side::Api => Failure::new(FailureKind::Unavailable, "the server is currently unable to handle the request"),
            Side::Host => Failure::new(FailureKind::Other, "input/output error"),
            Side::Csi => Failure::new(FailureKind::Other, "rpc error: code = Internal desc = injected"),
        });
    }
    if hits(odds.lost) {
        return Fate::Lost;
    }
    if hits(odds.reply_lost) {
        return Fate::ReplyLost;
    }
    if hits(odds.late) {
        return Fate::Late(Duration::from_secs(2 + rng.below(4)));
    }
    if hits(odds.slow) {
        return Fate::Slow(Duration::from_millis(100 + rng.below(3000)));
    }
    Fate::Well
}
