//! Where the parts of the core put what they want done: it numbers the actions and remembers whose they are.
//! Upstream: none; upstream's parts call their dependencies and wait.
//! Differs: by design.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::action::{Action, Call, Lane};
use crate::event::WatchKey;
use crate::facts::Fact;
use crate::ids::{ActionId, PodName, PodUid};
use crate::recorder::Recorded;
use crate::work::{Point, Work};

/// Whose an action is: the part of the core that its completion goes to, with what that part needs to find its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// Machine info, directories, cgroup tiers: what the node needs before anything else.
    Startup,
    /// The runtime's version, configuration and health.
    RuntimeHealth,
    /// The listing of everything in the runtime.
    Pleg,
    /// Registration, node status, CSINode.
    Node,
    /// The own Node, asked for again because pods do not fit its labels.
    Affinity,
    /// The node lease.
    Lease,
    /// A worker's observation or batch.
    Pod(PodUid),
    /// A pod's volume.
    Volume(PodUid, String),
    /// The claim of a pod's volume, by the volume's name in the pod.
    Claim(PodUid, String),
    /// A CSI volume, by its unique name.
    Csi(String),
    /// What CSI volumes an earlier life left.
    CsiSurvey,
    /// The plugins on the node.
    Plugins,
    /// The files at the static pod path.
    Manifests,
    /// The static pod URL.
    ManifestUrl,
    /// The mirror pod of that full name.
    Mirror(PodName),
    /// A pod's status in the API.
    PodStatus(PodUid),
    /// The image of a pod's container or image volume, by that name.
    Image(PodUid, String),
    /// What is kept of pulls.
    ImageRecords,
    /// Image garbage collection.
    ImageGc,
    /// A ConfigMap or Secret.
    Object(WatchKey),
    /// A service account token, by its key in the token manager.
    Token(u64),
    /// A probe of a pod, by its key in the prober.
    Probe(PodUid, u64),
    /// An API event.
    Recorder,
    /// The node's resolver configuration and hosts file.
    NodeFiles,
    /// Dead containers, orphaned directories and cgroups.
    Housekeeping,
}

impl Owner {
    fn pod(&self) -> Option<&PodUid> {
        match self {
            Self::Pod(pod)
            | Self::Volume(pod, _)
            | Self::Claim(pod, _)
            | Self::PodStatus(pod)
            | Self::Image(pod, _)
            | Self::Probe(pod, _) => Some(pod),
            _ => None,
        }
    }
}

/// Numbers actions and knows whose those are that have not ended.
#[derive(Debug)]
pub struct Ledger {
    next: u64,
    owners: BTreeMap<ActionId, Owner>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { next: 1, owners: BTreeMap::new() }
    }
}

impl Ledger {
    /// Whose the action was. Asking forgets it: an action ends once.
    pub fn take(&mut self, id: ActionId) -> Option<Owner> {
        self.owners.remove(&id)
    }

    /// How many actions have not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.owners.len()
    }
}

/// The hand that a part of the core is given while it handles an event.
#[derive(Debug)]
pub struct Out<'a> {
    ledger: &'a mut Ledger,
    actions: &'a mut Vec<Action>,
    recorded: &'a mut Vec<Recorded>,
    work: Option<&'a mut Work>,
    facts: Option<&'a mut Vec<Fact>>,
}

impl<'a> Out<'a> {
    /// Puts its three ends together.
    pub fn new(ledger: &'a mut Ledger, actions: &'a mut Vec<Action>, recorded: &'a mut Vec<Recorded>) -> Self {
        Self { ledger, actions, recorded, work: None, facts: None }
    }

    /// The same, and it is told for whom it is worked.
    #[must_use]
    pub fn that_tells(self, work: &'a mut Work) -> Self {
        Self { work: Some(work), ..self }
    }

    /// The same, and what is counted is kept there.
    #[must_use]
    pub fn that_counts(self, facts: &'a mut Vec<Fact>) -> Self {
        Self { facts: Some(facts), ..self }
    }

    /// Something happened that is counted.
    pub fn count(&mut self, fact: Fact) {
        if let Some(facts) = &mut self.facts {
            facts.push(fact);
        }
    }

    /// Work for a pod begins: if it fails, that pod is what it costs.
    pub fn works_for(&mut self, at: Point, pod: &PodUid) {
        if let Some(work) = &mut self.work {
            work.begins(at, pod);
        }
    }

    /// What follows is for no pod alone.
    pub fn rests(&mut self) {
        if let Some(work) = &mut self.work {
            work.rests();
        }
    }

    /// For whom it is worked.
    #[must_use]
    pub fn working_for(&self) -> Option<&(Point, PodUid)> {
        self.work.as_ref().and_then(|work| work.now())
    }

    /// Whose an action is that has not ended.
    #[must_use]
    pub fn owns(&self, id: ActionId) -> Option<&Owner> {
        self.ledger.owners.get(&id)
    }

    /// The end of an action was not taken: it is going to end once more.
    pub fn give_back(&mut self, id: ActionId, owner: Owner) {
        self.ledger.owners.insert(id, owner);
    }

    /// Whose an action that ended was. Asking forgets it: an action ends once.
    pub fn owner_of(&mut self, id: ActionId) -> Option<Owner> {
        self.ledger.take(id)
    }

    /// Asks for something to be done; its completion goes to `owner`.
    pub fn issue(&mut self, owner: Owner, lane: Lane, timeout: impl Into<Option<Duration>>, call: Call) -> ActionId {
        let id = self.push(lane, timeout.into(), owner.pod().cloned(), call);
        self.ledger.owners.insert(id, owner);
        id
    }

    /// Asks for something whose completion nobody waits for, or that has none (watches, cancels).
    pub fn post(&mut self, lane: Lane, timeout: impl Into<Option<Duration>>, call: Call) -> ActionId {
        self.push(lane, timeout.into(), None, call)
    }

    fn push(&mut self, lane: Lane, timeout: Option<Duration>, pod: Option<PodUid>, call: Call) -> ActionId {
        let id = ActionId(self.ledger.next);
        self.ledger.next += 1;
        self.actions.push(Action { id, lane, timeout, pod, call });
        id
    }

    /// Withdraws an action. Its completion still comes, as `Canceled` or as it had ended.
    pub fn cancel(&mut self, id: ActionId) {
        self.post(Lane::Housekeeping, None, Call::Cancel(id));
    }

    /// Tells the users: an event for the API server, by way of the recorder.
    pub fn record(&mut self, recorded: Recorded) {
        self.recorded.push(recorded);
    }
}
