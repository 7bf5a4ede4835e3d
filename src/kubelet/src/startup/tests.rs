use super::*;
use crate::action::Action;
use crate::failure::FailureKind;
use crate::out::Ledger;

struct Bench {
    startup: Startup,
    config: Config,
    machine: MachineInfo,
    exists: Vec<String>,
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
            exists: Vec::new(),
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
        self.settle_at(9)
    }

    fn settle_at(&mut self, seconds: u64) -> Vec<String> {
        let mut set = Vec::new();
        loop {
            let actions = self.due(seconds);
            if actions.is_empty() {
                return set;
            }
            for action in actions {
                let Call::Host(call) = action.call else { panic!("only the host is asked") };
                let reply = match call {
                    HostCall::MachineInfo => HostReply::Machine(Box::new(self.machine.clone())),
                    HostCall::CgroupExists { name } => HostReply::Exists(self.exists.contains(&name)),
                    HostCall::ApplyCgroup { name, .. } => {
                        set.push(name);
                        HostReply::Done
                    }
                    _ => HostReply::Done,
                };
                self.done(seconds, action.id, Ok(reply));
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

// NODE-132: container_manager_linux.go (NewContainerManager, "we need to check that the cgroup root actually exists"): one that is not there
// is told and waited for, and nothing is made in its place. By the driver's name, as cgroup_v2_manager_linux.go (buildCgroupUnifiedPath) looks.
#[test]
fn root_of_cgroups_that_is_not_there_is_not_made() {
    let mut bench = Bench::new();
    bench.config.cgroups.root = "/custom/pdos".to_owned();
    bench.settle();
    bench.plan_tiers();
    assert_eq!(bench.settle(), Vec::<String>::new());
    assert!(!bench.startup.is_done());
    let missing = "invalid configuration: cgroup [\"custom\" \"pdos\"] has some missing paths: /sys/fs/cgroup/custom/pdos";
    assert_eq!(bench.startup.last_error(), Some(missing));
    let told: Vec<_> = bench.recorded.iter().map(|r| (r.warning, r.reason.as_str(), r.message.as_str())).collect();
    assert_eq!(told, [(true, "KubeletSetupFailed", missing)]);
    assert_eq!(bench.startup.deadline(), Some(at(10).mono));
    bench.exists.push("/custom/pdos".to_owned());
    let asked = bench.due(10);
    bench.done(10, asked[0].id, Ok(HostReply::Exists(true)));
    let below = ["", "/burstable", "/besteffort"].map(|tier| format!("/custom/pdos/kubepods{tier}"));
    assert_eq!(bench.settle_at(10), below);
    assert!(bench.startup.is_done());
}

// NODE-142, NODE-132: upstream prints the CgroupName with %q.
#[test]
fn limits_below_a_root_of_its_own_are_named_in_full() {
    let mut bench = Bench::new();
    bench.config.cgroups.root = "/a".to_owned();
    bench.exists.push("/a".to_owned());
    bench.settle();
    bench.plan_tiers();
    let asked = bench.due(9);
    bench.done(9, asked[0].id, Ok(HostReply::Exists(true)));
    let asked = bench.due(9);
    bench.done(9, asked[0].id, Err(Failure::new(FailureKind::Other, "EBUSY")));
    let told = bench.recorded.last().map(|event| event.message.clone());
    assert_eq!(told.as_deref(), Some("Failed to update Node Allocatable Limits [\"a\" \"kubepods\"]: EBUSY"));
}

// NODE-146: container_manager_linux.go (NewContainerManager): where there is swap and a tmpfs cannot be kept from it, secrets may lie on the
// disk.
#[test]
fn volumes_in_memory_that_may_be_swapped_are_warned_of() {
    for (swap_on, tmpfs_no_swap) in [(true, false), (true, true), (false, false)] {
        let mut bench = Bench::new();
        bench.machine = MachineInfo { swap_on, tmpfs_no_swap, ..machine() };
        bench.settle();
        let told: Vec<_> = bench.recorded.iter().map(|r| (r.warning, r.reason.as_str(), r.message.as_str())).collect();
        let words = "The tmpfs noswap option is not supported. Memory-backed volumes (e.g. secrets, emptyDirs, etc.) might be swapped to disk \
                     and should no longer be considered secure.";
        let expected = (true, "PossibleMemoryBackedVolumesOnDisk", words);
        assert_eq!(told, if swap_on && !tmpfs_no_swap { vec![expected] } else { vec![] });
    }
}
