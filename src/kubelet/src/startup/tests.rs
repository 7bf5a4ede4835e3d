use super::*;
use crate::action::Action;
use crate::failure::FailureKind;
use crate::out::Ledger;

struct Bench {
    startup: Startup,
    config: Config,
    ledger: Ledger,
    recorded: Vec<Recorded>,
}

fn at(seconds: u64) -> Now {
    Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall: jiff::Timestamp::UNIX_EPOCH }
}

fn machine() -> HostReply {
    let cgroup_v2 = true;
    let machine = MachineInfo { cpus: 2, memory: 4 << 30, root_fs_capacity: 1 << 30, cgroup_v2, ..MachineInfo::default() };
    HostReply::Machine(Box::new(machine))
}

impl Bench {
    fn new() -> Self {
        Self { startup: Startup::default(), config: Config::new("n1"), ledger: Ledger::default(), recorded: Vec::new() }
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

    /// The events so far.
    fn told(&self) -> Vec<String> {
        self.recorded.iter().map(|event| format!("{} {}", event.reason, event.message)).collect()
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
                    HostCall::MachineInfo => machine(),
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
        let actions = bench.due(second);
        for asked in actions.iter().filter(|a| matches!(a.call, Call::Host(HostCall::MachineInfo))) {
            bench.done(second, asked.id, Ok(machine()));
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
    assert_eq!(bench.told(), ["NodeAllocatableEnforced Updated Node Allocatable limit across pods"]);
    bench.plan_tiers();
    assert!(bench.settle().is_empty());
}

// NODE-142: while the limits of all pods together cannot be set, the node says so, once.
#[test]
fn limits_that_cannot_be_enforced_are_told_and_tried_again() {
    let mut bench = Bench::new();
    bench.settle();
    bench.plan_tiers();
    for second in 10..12 {
        let asked = bench.due(second);
        bench.done(second, asked[0].id, Err(Failure::new(FailureKind::Other, "write memory.max: device or resource busy")));
    }
    let failed = "FailedNodeAllocatableEnforcement Failed to update Node Allocatable Limits [\"kubepods\"]: write memory.max: device \
                  or resource busy";
    assert_eq!(bench.told(), [failed]);
    let asked = bench.due(20);
    bench.done(20, asked[0].id, Ok(HostReply::Done));
    assert_eq!(bench.told()[1], "NodeAllocatableEnforced Updated Node Allocatable limit across pods");
}

// NODE-028: a node that was allowed to start on the old hierarchy says that this will end.
#[test]
fn cgroup_v1_is_warned_of() {
    let mut bench = Bench::new();
    let asked = bench.due(1);
    let machine_asked = asked.iter().find(|a| matches!(a.call, Call::Host(HostCall::MachineInfo))).unwrap();
    bench.done(1, machine_asked.id, Ok(HostReply::Machine(Box::default())));
    assert!(bench.recorded[0].warning);
    assert!(bench.told()[0].starts_with("CgroupV1 cgroup v1 detected. cgroup v1 support is deprecated"), "{:?}", bench.told());
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
