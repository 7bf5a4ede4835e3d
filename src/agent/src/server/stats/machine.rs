//! The machine as it was last read: its size, its disks, and when it was started, before which nothing on it was.
//! Upstream: github.com/google/cadvisor/manager/manager.go (updateMachineInfo), container/common/helpers.go (bootTime, DeviceNamer).
//! Differs: a disk that is not known makes the machine be read again at once; one that stays so is called by its numbers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kubelet::action::HostCall;
use kubelet::event::HostReply;
use kubelet::failure::Failure;
use kubelet::observation::MachineInfo;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::collect::{Collector, unexpected, within};
use super::subjects::Subject;
use crate::env::{CgroupUsage, DiskUsage};

/// cadvisor's `update_machine_info_interval`.
const KEPT: Duration = Duration::from_secs(300);
/// No sooner is it read again for the sake of a disk.
const DISKS_KEPT: Duration = Duration::from_secs(10);

/// What was read.
#[derive(Default)]
pub(super) struct Machine {
    read: Mutex<Option<(Instant, Arc<MachineInfo>)>>,
    boot: OnceCell<Timestamp>,
}

impl Collector {
    /// The machine, at most five minutes old; older only if it cannot be read.
    pub(super) async fn machine(&self) -> Result<Arc<MachineInfo>, Failure> {
        self.machine_no_older_than(KEPT).await
    }

    async fn machine_no_older_than(&self, age: Duration) -> Result<Arc<MachineInfo>, Failure> {
        let read = || self.machine.read.lock().unwrap_or_else(PoisonError::into_inner);
        let last = read().clone();
        if let Some((_, machine)) = last.as_ref().filter(|(at, _)| at.elapsed() < age) {
            return Ok(Arc::clone(machine));
        }
        let anew = match within(self.env.host.call(HostCall::MachineInfo)).await {
            Ok(HostReply::Machine(machine)) => Ok(Arc::new(*machine)),
            Ok(other) => Err(unexpected(&other)),
            Err(failure) => Err(failure),
        };
        match (anew, last) {
            (Ok(machine), _) => {
                *read() = Some((Instant::now(), Arc::clone(&machine)));
                Ok(machine)
            }
            (Err(failure), Some((_, machine))) => {
                tracing::error!(%failure, "Could not get machine info");
                Ok(machine)
            }
            (Err(failure), None) => Err(failure),
        }
    }

    /// The machine, and of each subject the names of its disks.
    pub(super) async fn machine_with_disks_of(&self, subjects: &mut [Subject]) -> Result<Arc<MachineInfo>, Failure> {
        let mut machine = self.machine().await?;
        let mut disks = subjects.iter().flat_map(|subject| &subject.usage.disks);
        if disks.any(|disk| !machine.disks.contains_key(&numbers(disk))) {
            machine = self.machine_no_older_than(DISKS_KEPT).await?;
        }
        let named = |disk: &DiskUsage| {
            let numbers = numbers(disk);
            (machine.disks.get(&numbers).map_or(numbers, |name| format!("/dev/{name}")), disk.clone())
        };
        for subject in subjects {
            subject.disks = subject.usage.disks.iter().map(named).collect();
        }
        Ok(machine)
    }

    /// When the machine was started, as it was told first: its clock may be set later.
    pub(super) async fn boot(&self) -> Option<Timestamp> {
        let read = || async { self.read("/proc/stat").await.as_deref().and_then(boot_time).ok_or(()) };
        self.machine.boot.get_or_try_init(read).await.ok().copied()
    }

    /// What a cgroup uses now; `None` if there is none. Pressure is measured if that is asked for. A cgroup is no older than the machine
    /// is up, to the minute (getSpecInternal): the clock may have been wrong when it was made.
    pub(super) async fn usage(&self, cgroup: &str, pressure: bool) -> Result<Option<CgroupUsage>, Failure> {
        let Some(usage) = within(self.env.host.cgroup_usage(cgroup.to_owned(), pressure)).await? else { return Ok(None) };
        let made = match usage.made {
            Some(made) => Some(self.boot().await.map_or(made, |boot| made.max(to_the_minute(boot)))),
            None => None,
        };
        Ok(Some(CgroupUsage { made, ..usage }))
    }
}

fn numbers(disk: &DiskUsage) -> String {
    let (major, minor) = disk.device;
    format!("{major}:{minor}")
}

fn to_the_minute(at: Timestamp) -> Timestamp {
    let second = at.as_second();
    Timestamp::from_second(second - second.rem_euclid(60)).unwrap_or(at)
}

/// `btime` of /proc/stat.
fn boot_time(stat: &str) -> Option<Timestamp> {
    Timestamp::from_second(stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?).ok()
}
