use super::*;
use crate::action::Action;
use crate::failure::FailureKind;
use crate::out::Ledger;

struct Bench {
    startup: Startup,
    config: Config,
    machine: MachineInfo,
    ledger: Ledger,
    recorded: Vec<Recorded>,
}

fn at(seconds: u64) -> Now {
    Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall: jiff::Timestamp::UNIX_EPOCH }
}

fn machine() -> MachineInfo {
    MachineInfo { cpus: 2, memory: 4 << 30, root_fs_capacity: 1 << 30, cgroup_v2: true, ..MachineInfo::default() }
}

impl Bench {
    fn new() -> Self {
        Self {
            startup: Startup::default(),
            config: Config::new("n1"),
            machine: machine(),
            ledger: Ledger::default(),
            recorded: Vec::new(),
        }
    }

    fn due(&mut self, seconds: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        self.startup.due(at(seconds), &mut Out::new(&mut self.ledger, &mut actions, &mut self.recorded));
        actions
    }

    fn done(&mut self, seconds: u64, id: ActionId, outcome: Result<HostReply, Failure>) {
        let mut none = Vec::new();
        self.startup.done(at(seconds), id, outcome, &mut Out::new(&mut self.ledger, &mut none, &mut self.recorded));
    }

    fn plan_tiers(&mut self) {
        let mut none = Vec::new();
        let mut out = Out::new(&mut self.ledger, &mut none, &mut self.recorded);
        self.startup.plan_tiers(&self.config, CgroupDriver::Cgroupfs, &mut out);
    }

    /// Does what is asked for until nothing is, and answers the cgroups that were set, in order.
    fn settle(&mut self) -> Vec<String> {
        let mut set = Vec::new();
        loop {
            let actions = self.due(9);
            if actions.is_empty() {
                return set;
            }
            for action in actions {
                let Call::Host(call) = action.call else { panic!("only the host is asked") };
                let reply = match call {
                    HostCall::MachineInfo => HostReply::Machine(Box::new(self.machine.clone())),
                    HostCall::ApplyCgroup { name, .. } => {
                        set.push(name);
                        HostReply::Done
                    }
                    _ => HostReply::Done,
                };
                self.done(9, action.id, Ok(reply));
            }
        }
    }
}

// NODE-004: what the node needs and cannot have is told once, and asked for again until it is there.
#[test]
fn failed_setup_is_told_once_and_tried_again() {
    let mut bench = Bench::new();
    for second in 1..=3 {
        let mut actions = bench.due(second);
        let first = actions.iter().find(|a| matches!(a.call, Call::Host(HostCall::MachineInfo))).map(|a| a.id);
        if let Some(asked) = first {
            bench.done(second, asked, Ok(HostReply::Machine(Box::new(machine()))));
            actions.extend(bench.due(second));
        }
        let prepare = actions.iter().find(|a| matches!(a.call, Call::Host(HostCall::PrepareNode))).unwrap();
        bench.done(second, prepare.id, Err(Failure::new(FailureKind::Other, "mkdir /var/lib/kubelet: read-only file system")));
        assert!(bench.due(second).is_empty(), "not at once");
        assert_eq!(bench.startup.deadline(), Some(at(second + 1).mono));
    }
    assert_eq!(bench.recorded.len(), 1);
    let told = &bench.recorded[0];
    assert!(told.warning);
    assert_eq!(
        (told.reason.as_str(), told.message.as_str()),
        ("KubeletSetupFailed", "mkdir /var/lib/kubelet: read-only file system")
    );
    assert_eq!(bench.startup.last_error(), Some("mkdir /var/lib/kubelet: read-only file system"));
    bench.settle();
    bench.plan_tiers();
    bench.settle();
    assert!(bench.startup.is_done());
    assert_eq!(bench.startup.last_error(), None);
}

// NODE-006, NODE-007, POD-062: the tiers wait for the runtime's word on its driver, and are made once, from the top.
#[test]
fn tiers_are_made_once_when_the_runtime_has_told_its_driver() {
    let mut bench = Bench::new();
    assert!(bench.settle().is_empty());
    assert!(!bench.startup.is_done());
    bench.plan_tiers();
    assert_eq!(bench.settle(), ["/kubepods", "/kubepods/burstable", "/kubepods/besteffort"]);
    assert!(bench.startup.is_done());
    bench.plan_tiers();
    assert!(bench.settle().is_empty());
}

// NODE-007: what is kept from pods must be there to be kept.
#[test]
fn reservation_beyond_capacity_stops_the_start() {
    let mut bench = Bench::new();
    bench.config.eviction.thresholds.clear();
    bench.config.reserved.system = [("cpu".to_owned(), 2000), ("memory".to_owned(), 5 << 30)].into();
    bench.settle();
    bench.plan_tiers();
    bench.plan_tiers();
    assert!(bench.settle().is_empty());
    assert!(!bench.startup.is_done());
    let message = "invalid Node Allocatable configuration. Resource \"memory\" has a reservation of 5Gi but capacity of 4Gi. Expected \
                   capacity >= reservation.";
    assert_eq!(bench.startup.last_error(), Some(message));
    assert_eq!(bench.recorded.len(), 1);
}

// NODE-142: what runs already may need more than it is to have, until some of it is gone.
#[test]
fn limits_that_cannot_be_set_on_all_pods_are_tried_again_without_holding_up_the_start() {
    let mut bench = Bench::new();
    bench.settle();
    bench.plan_tiers();
    let asked = |actions: Vec<Action>| {
        let named = |a: Action| match a.call {
            Call::Host(HostCall::ApplyCgroup { name, .. }) => (a.id, name),
            _ => panic!("only cgroups are made"),
        };
        actions.into_iter().map(named).collect::<Vec<_>>()
    };
    let kubepods = asked(bench.due(9));
    assert_eq!(kubepods[0].1, "/kubepods");
    bench.done(9, kubepods[0].0, Err(Failure::new(FailureKind::Other, "write memory.limit_in_bytes: EBUSY")));
    for tier in ["/kubepods/burstable", "/kubepods/besteffort"] {
        let made = asked(bench.due(9));
        assert_eq!((made.len(), made[0].1.as_str()), (1, tier));
        bench.done(9, made[0].0, Ok(HostReply::Done));
    }
    assert!(bench.startup.is_done());
    assert_eq!(bench.startup.deadline(), Some(at(69).mono));
    assert!(bench.due(68).is_empty());
    let kubepods = asked(bench.due(69));
    bench.done(69, kubepods[0].0, Ok(HostReply::Done));
    assert_eq!(bench.startup.deadline(), None);
    let told: Vec<_> = bench.recorded.iter().map(|r| (r.warning, r.reason.as_str(), r.message.as_str())).collect();
    let failed = "Failed to update Node Allocatable Limits [\"kubepods\"]: write memory.limit_in_bytes: EBUSY";
    let enforced = (false, "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods");
    assert_eq!(told, [(true, "FailedNodeAllocatableEnforcement", failed), enforced]);
}

// NODE-028: a node that was allowed to start on the old hierarchy says that this will end.
#[test]
fn cgroup_v1_is_warned_of() {
    let mut bench = Bench::new();
    bench.machine.cgroup_v2 = false;
    bench.settle();
    let told: Vec<&str> = bench.recorded.iter().map(|event| event.reason.as_str()).collect();
    assert_eq!(told, ["CgroupV1"]);
    assert!(bench.recorded[0].warning);
    assert!(bench.recorded[0].message.starts_with("cgroup v1 detected. cgroup v1 support is deprecated and will be removed"));
}
