//! The state files of the CPU and memory managers: made where there are none, and read for a policy that does not fit.
//! Upstream: pkg/kubelet/cm/{cpumanager,memorymanager}/state/{checkpoint,state_checkpoint}.go.
//! Differs: with the policies `static` and `Static`, which are not supported, no file is made or read; of a file of the idle policies
//! only the policy counts, and a wrong checksum or list of CPUs in it is passed over, since nothing is handed out by it; the checkpoints of
//! other managers are left as they are.

use std::fs;
use std::path::Path;

use kubelet::config::{CpuManagerPolicy, Managers, MemoryManagerPolicy};
use serde::Deserialize;

use super::error::{Context as _, HostError};
use super::files;

/// A manager that has nothing to remember.
struct Idle {
    file: &'static str,
    /// Its name in messages to users.
    name: &'static str,
    /// What stands before a message about its policy.
    prefix: &'static str,
    policy: &'static str,
    /// What it writes down, with upstream's checksum of it.
    empty: &'static str,
}

const CPU: Idle = Idle {
    file: "cpu_manager_state",
    name: "CPU",
    prefix: "",
    policy: "none",
    empty: r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#,
};

const MEMORY: Idle = Idle {
    file: "memory_manager_state",
    name: "memory",
    prefix: "[memorymanager] ",
    policy: "None",
    empty: r#"{"policyName":"None","machineState":{},"checksum":4236770233}"#,
};

/// What of a state file tells whose it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    policy_name: String,
}

/// Makes and checks the files (NODE-205, DIR-007).
pub(super) fn prepare(root: &Path, managers: &Managers) -> Result<(), HostError> {
    if managers.cpu == CpuManagerPolicy::None {
        CPU.prepare(root)?;
    }
    if managers.memory == MemoryManagerPolicy::None {
        MEMORY.prepare(root)?;
    }
    Ok(())
}

impl Idle {
    /// What another policy left is not thrown away: containers may still run on CPUs that it gave them.
    fn prepare(&self, root: &Path) -> Result<(), HostError> {
        let path = root.join(self.file);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return files::write_whole(&path, self.empty.as_bytes(), 0o600);
            }
            Err(error) => return Err(error).context("open", &path),
        };
        let wrong = match serde_json::from_slice::<State>(&text) {
            Ok(state) if state.policy_name == self.policy => return Ok(()),
            Ok(state) => format!(
                "{}configured policy {:?} differs from state checkpoint policy {:?}",
                self.prefix, self.policy, state.policy_name
            ),
            Err(error) => error.to_string(),
        };
        Err(HostError::Unfit(format!(
            "could not restore state from checkpoint: {wrong}, please drain this node and delete the {} manager checkpoint file {:?} \
             before restarting Kubelet",
            self.name,
            path.display()
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::testing::Scratch;
    use super::*;

    // NODE-205, DIR-007: a kubelet that takes over finds what it would have written itself.
    #[test]
    fn idle_managers_have_their_state_files() {
        let scratch = Scratch::new();
        for _ in 0..2 {
            prepare(scratch.path(), &Managers::default()).unwrap();
            assert_eq!(scratch.get("cpu_manager_state"), r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#);
            assert_eq!(scratch.get("memory_manager_state"), r#"{"policyName":"None","machineState":{},"checksum":4236770233}"#);
        }
        for file in ["cpu_manager_state", "memory_manager_state"] {
            assert_eq!(fs::metadata(scratch.path().join(file)).unwrap().permissions().mode() & 0o7777, 0o600, "{file}");
        }
        assert_eq!(files::names(scratch.path()).unwrap(), ["cpu_manager_state", "memory_manager_state"]);
    }

    // NODE-205: containers that another policy gave CPUs of their own must not be forgotten unseen.
    #[test]
    fn state_of_another_policy_stops_the_start() {
        let (cpu, memory) = (r#"{"policyName":"static","defaultCpuSet":"0-1"}"#, r#"{"policyName":"Static"}"#);
        for (file, contents, message) in [
            (
                "cpu_manager_state",
                cpu,
                "could not restore state from checkpoint: configured policy \"none\" differs from state checkpoint policy \"static\", \
                 please drain this node and delete the CPU manager checkpoint file \"",
            ),
            (
                "memory_manager_state",
                memory,
                "could not restore state from checkpoint: [memorymanager] configured policy \"None\" differs from state checkpoint policy \
                 \"Static\", please drain this node and delete the memory manager checkpoint file \"",
            ),
            ("cpu_manager_state", "{", "could not restore state from checkpoint: EOF while parsing"),
        ] {
            let scratch = Scratch::new();
            scratch.put(file, contents);
            let told = prepare(scratch.path(), &Managers::default()).unwrap_err().to_string();
            assert!(told.starts_with(message), "{told}");
            assert_eq!(scratch.get(file), contents, "it is left as it was");
        }
        let scratch = Scratch::new();
        scratch.put("cpu_manager_state", cpu);
        let pinning = Managers { cpu: CpuManagerPolicy::Static, ..Managers::default() };
        prepare(scratch.path(), &pinning).unwrap();
    }
}
