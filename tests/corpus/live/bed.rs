//! The node that the cases run on: made like the lab that the recordings come from, with a real API server, containerd and our agent.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use model::api::authorize::Identity;
use serde_json::{Value, json};

use super::super::case::image;
use super::super::tables::OLD_RUNTIME;
use super::ears::Ears;
use super::http::{PORT, call, must};
use super::registry;
use crate::cluster::control_plane::{ControlPlane, Programs};
use crate::live::agent::{Agent, Credentials, NODE};
use crate::live::bed::is_ready;
use crate::live::image::Recipe;
use crate::live::requirements::{self, Machine};
use crate::live::site::{CGROUP_ROOT, Site};
use crate::live::wait::until;

/// The agent's root directory in the lab, and here.
const ROOT: &str = "/var/lib/kubelet";
/// How long anything may take before the first case.
const PATIENCE: Duration = Duration::from_secs(60);
/// The containerd of the recordings is 2.1: what an older one cannot do, or words otherwise, stands in the tables under its own stage.
const CONTAINERD_OF_RECORDINGS: u32 = 2;

/// A runtime, a control plane, an agent, and ears.
pub(super) struct Bed {
    pub(super) site: Site,
    pub(super) plane: ControlPlane,
    pub(super) ears: Arc<Ears>,
    _agent: Agent,
}

/// What the bed is made from.
pub(super) struct Means {
    machine: Machine,
    programs: Programs,
    /// The stage in the tables' words.
    pub(super) stage: &'static str,
}

impl Means {
    /// Looks at the machine.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn find() -> Result<Self, String> {
        let machine = requirements::machine()?;
        let mut programs = Programs::find()?;
        // Nothing of what cases look at is made by controllers.
        programs.controllers = None;
        let version = std::process::Command::new(&machine.containerd).arg("--version").output();
        let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let major = version.split(' ').nth(2).and_then(|word| word.trim_start_matches('v').split('.').next()?.parse::<u32>().ok());
        let Some(major) = major else { return Err(format!("containerd tells no version: {:?}", version.trim())) };
        let stage = if major < CONTAINERD_OF_RECORDINGS { OLD_RUNTIME } else { "live" };
        if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            return Err("the recordings are of a machine with cgroup v1".to_owned());
        }
        Ok(Self { machine, programs, stage })
    }
}

impl Bed {
    /// Brings it up; the calling thread is in the enclosure's network afterwards.
    pub(super) fn up(means: Means) -> anyhow::Result<Self> {
        let ctr = means.machine.ctr.clone();
        let site = Site::up(means.machine)?;
        let started = || -> anyhow::Result<_> {
            site.containerd.import(&site.enclosure, &site.directory, &recipes())?;
            registry::serve(&site.directory.join("containerd/registries"))?;
            let plane = ControlPlane::start(&site, means.programs)?;
            let background = |args: &[&str], log: &str| {
                let command = plane.command(args);
                let words = [command.get_program()].into_iter().chain(command.get_args());
                let words: Vec<_> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
                site.enclosure.start(&format!("HOME={} {}", plane.directory.display(), words.join(" ")), &site.directory.join(log))
            };
            background(&["proxy", &format!("--port={PORT}"), "--disable-filter"], "proxy.log")?;
            until("kubectl proxy", PATIENCE, || call("GET", "/readyz", None).map_err(|error| error.to_string()))?;
            // Watches end by themselves after a while, unless they are told to last.
            background(&["get", "--raw=/api/v1/pods?watch=true&timeoutSeconds=3600"], "pods.watch")?;
            background(&["get", "--raw=/api/v1/events?watch=true&timeoutSeconds=3600"], "events.watch")?;
            let told = site.directory.join("containerd.events");
            let socket = site.containerd.socket.display();
            site.enclosure.start(&format!("{} --address {socket} --namespace k8s.io events", ctr.display()), &told)?;
            let file = |name: &str| site.directory.join(name);
            let files = [("pods", file("pods.watch")), ("events", file("events.watch")), ("runtime", told)];
            let ears = Ears::open(&ctr, &site.containerd.socket, files);
            let agent = start_agent(&site, &plane)?;
            Ok((plane, ears, agent))
        };
        match started() {
            Ok((plane, ears, agent)) => Ok(Self { site, plane, ears, _agent: agent }),
            Err(error) => {
                site.down(true, &["control-plane/apiserver.log", "proxy.log", "agent/keelson.log"])?;
                Err(error)
            }
        }
    }

    /// Ends everything.
    pub(super) fn down(self, failed: bool) -> anyhow::Result<()> {
        self.ears.close();
        self.site.down(failed, &["agent/keelson.log"])
    }

    /// What places are called here, and in the recordings.
    pub(super) fn places(&self) -> Vec<(String, String)> {
        let own = self.site.directory.join("containerd");
        vec![
            (format!("{CGROUP_ROOT}/kubepods"), "/kubepods".to_owned()),
            (own.join("root").display().to_string(), "<lab>/lib".to_owned()),
            (own.join("state").display().to_string(), "<lab>/run/state".to_owned()),
        ]
    }

    /// Makes a case's namespace, with what controllers would put there.
    pub(super) fn namespace(&self, name: &str) -> anyhow::Result<()> {
        must(call("POST", "/api/v1/namespaces", Some(&json!({"metadata": {"name": name}})))?)?;
        let make = |plural: &str, object: Value| {
            call("POST", &format!("/api/v1/namespaces/{name}/{plural}"), Some(&object)).and_then(must)
        };
        make("serviceaccounts", json!({"metadata": {"name": "default"}}))?;
        // The second is mounted by OpenShift's API server only.
        for (map, key) in [("kube-root-ca.crt", "ca.crt"), ("openshift-service-ca.crt", "service-ca.crt")] {
            make("configmaps", json!({"metadata": {"name": map}, "data": {key: self.plane.pki.ca_certificate}}))?;
        }
        Ok(())
    }
}

/// Starts the agent with the settings of the lab's kubelet, and waits until its node is Ready.
fn start_agent(site: &Site, plane: &ControlPlane) -> anyhow::Result<Agent> {
    let settings = json!({
        "maxPods": 250, "evictionHard": {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
    });
    let root = site.directory.join("kubelet");
    std::fs::create_dir_all(&root)?;
    // The machine may have no such directory, and is not to be left with one.
    site.enclosure.order(&format!(
        "set -e\n[ -d {ROOT} ] || mount -t tmpfs -o mode=755 lib /var/lib\nmkdir -p {ROOT}\nmount --bind {} {ROOT}\nset +e",
        root.display()
    ))?;
    let kubeconfig = plane.kubeconfig(&Identity::node(NODE))?;
    let credentials = Credentials::Kubeconfig(&kubeconfig);
    let agent = site.start("agent", NODE, credentials, &plane.pki.ca_certificate, Some(ROOT.as_ref()), &settings)?;
    until("the node Ready", PATIENCE, || match call("GET", &format!("/api/v1/nodes/{NODE}"), None) {
        Ok((200, node)) if is_ready(&node) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    ensure!(agent.runs(&site.enclosure), "the agent has ended");
    Ok(agent)
}

/// Where programs are looked for in the lab's images.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The files of the lab's busybox.
pub(super) const ROOTS: [(&str, &[u8]); 2] = [("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"), ("etc/group", b"root:x:0:\n")];

/// The configuration of the lab's busybox.
pub(super) fn shell() -> Value {
    json!({"Env": [PATH], "Cmd": ["sh"]})
}

/// The images that cases name, as the lab has them.
fn recipes() -> [Recipe; 5] {
    const WITH_USER: [(&str, &[u8]); 2] =
        [("etc/passwd", b"root:x:0:0::/root:/bin/sh\nuser:x:1234:1234::/:/bin/sh\n"), ("etc/group", b"root:x:0:\n")];
    const WITH_GROUPS: [(&str, &[u8]); 2] = [
        ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nuser-defined-in-image:x:1000:1000::/home:/bin/sh\n"),
        ("etc/group", b"root:x:0:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n"),
    ];
    let recipe = |name: &str, config: Value, files: &'static [(&'static str, &'static [u8])]| {
        let mut config = config;
        config["Env"] = json!([PATH]);
        Recipe { name: image(name), config, files }
    };
    [
        recipe("BUSYBOX", shell(), &ROOTS),
        // Only the groups of it: its program is nobody's to have.
        recipe("AGNHOST", json!({"Entrypoint": ["/agnhost"], "Cmd": ["pause"]}), &WITH_GROUPS),
        recipe("NONROOT", json!({"User": "1234", "Cmd": ["id", "-u"]}), &WITH_USER),
        recipe("NGINX", json!({"Cmd": ["httpd", "-f", "-p", "80", "-h", "/tmp"]}), &ROOTS),
        // One that is there although nobody serves it.
        recipe("NOBODY/present/bb:1", shell(), &ROOTS),
    ]
}
