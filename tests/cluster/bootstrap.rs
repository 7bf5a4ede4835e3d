//! A control plane of static pods, as kubeadm leaves it: the agent is there first, and the API server is one of its pods.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use model::api::authorize::Identity;
use serde_json::{Value, json};

use super::control_plane::{ControlPlane, Programs};
use crate::live::agent::{Agent, NODE};
use crate::live::bed::is_ready;
use crate::live::enclosure::NODE_IP;
use crate::live::image::archive_of;
use crate::live::requirements::{self, Machine};
use crate::live::site::Site;
use crate::live::suite::{self, Part};
use crate::live::wait::{throughout, until};

/// A control plane takes its time on a busy machine, and waits for itself with back-offs.
const PATIENCE: Duration = Duration::from_secs(240);
/// Longer than a reading of the manifests and a listing of the runtime.
const WINDOW: Duration = Duration::from_secs(25);
/// Its parts, in the order in which kubeadm names them.
const PARTS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

#[test]
fn a_control_plane_comes_up_as_static_pods() {
    let parts: &[(&str, Part<Plane>)] = &[
        // POD-007, POD-008, POD-011, POD-012, NODE-049
        ("control_plane_comes_up_without_an_api_server", Plane::comes_up),
        // API-087, API-100, POD-011
        ("logs_and_commands_of_static_pods", Plane::logs_and_commands),
        // POD-090
        ("control_plane_survives_the_agents_death", Plane::survives_the_agents_death),
        // POD-013
        ("mirror_that_is_deleted_stops_nothing", Plane::mirror_that_is_deleted_stops_nothing),
        // POD-013, POD-014, POD-080, POD-081
        ("manifests_change_go_and_come_back", Plane::manifests_change_go_and_come_back),
        // POD-012, POD-081, POD-090
        ("api_server_goes_and_comes_back", Plane::api_server_goes_and_comes_back),
    ];
    let up = || {
        let programs = Programs::find()?;
        if programs.controllers.is_none() {
            return Err("no kube-controller-manager and kube-scheduler in KUBEBUILDER_ASSETS".to_owned());
        }
        Ok(Plane::up(requirements::machine()?, &programs))
    };
    suite::run(
        "a control plane of static pods",
        parts,
        up,
        |_| Ok(()),
        |plane, failed| plane.site.down(failed, &["agent/keelson.log"]),
    );
}

/// A node of which the control plane consists.
struct Plane {
    site: Site,
    plane: ControlPlane,
    manifests: PathBuf,
    agent: Agent,
}

fn image(part: &str) -> String {
    format!("registry.k8s.io/{part}:v0")
}

fn probe(host: &str, path: &str, scheme: &str, more: &Value) -> Value {
    let mut probe = json!({"httpGet": {"host": host, "path": path, "port": "probe-port", "scheme": scheme}, "timeoutSeconds": 15});
    for (field, value) in more.as_object().into_iter().flatten() {
        probe[field] = value.clone();
    }
    probe
}

impl Plane {
    fn up(machine: Machine, programs: &Programs) -> anyhow::Result<Self> {
        let site = Site::up(machine)?;
        let started = || -> anyhow::Result<(ControlPlane, PathBuf, Agent)> {
            let controllers = programs.controllers.as_ref().context("controllers")?;
            for (part, program) in PARTS.iter().zip([&programs.etcd, &programs.apiserver, &controllers[0], &controllers[1]]) {
                let archive = archive_of(&image(part), program)?;
                site.containerd.import_archive(&site.enclosure, &site.directory, &archive, &[&image(part)])?;
            }
            let plane = ControlPlane::prepare(&site, programs)?;
            let manifests = site.directory.join("manifests");
            fs::create_dir_all(&manifests)?;
            let kubeconfig = plane.kubeconfig(&Identity::node(NODE))?;
            let agent = site.start_agent_of_manifests(&kubeconfig, &plane.pki.ca_certificate, &manifests)?;
            Ok((plane, manifests, agent))
        };
        match started() {
            Ok((plane, manifests, agent)) => Ok(Self { site, plane, manifests, agent }),
            Err(error) => {
                site.down(true, &["agent/keelson.log"])?;
                Err(error)
            }
        }
    }

    /// A manifest as kubeadm writes it; `more` are flags beside its own.
    fn manifest(&self, part: &str, more: &[&str]) -> Value {
        let directory = self.plane.directory.display();
        let file = |name: &str| format!("{directory}/{name}");
        let (port, host, scheme, path, flags) = match part {
            "etcd" => (2381, "127.0.0.1", "HTTP", "/health", self.etcd_flags()),
            "kube-apiserver" => (6443, NODE_IP, "HTTPS", "/livez", self.apiserver_flags()),
            _ => {
                let kubeconfig = file("admin.kubeconfig");
                let mut flags: Vec<String> = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
                    .map(|flag| format!("--{flag}={kubeconfig}"))
                    .into();
                flags.extend(["--bind-address=127.0.0.1".to_owned(), "--leader-elect=true".to_owned()]);
                if part == "kube-scheduler" {
                    (10259, "127.0.0.1", "HTTPS", "/livez", flags)
                } else {
                    flags.push(format!("--root-ca-file={}", file("ca.crt")));
                    flags.push(format!("--service-account-private-key-file={}", file("accounts.key")));
                    (10257, "127.0.0.1", "HTTPS", "/healthz", flags)
                }
            }
        };
        let command: Vec<String> =
            [part.to_owned()].into_iter().chain(flags).chain(more.iter().map(|flag| (*flag).to_owned())).collect();
        let often = json!({"initialDelaySeconds": 10, "periodSeconds": 10, "failureThreshold": 8});
        let mut container = json!({
            "name": part, "image": image(part), "imagePullPolicy": "IfNotPresent", "command": command,
            "ports": [{"containerPort": port, "name": "probe-port", "protocol": "TCP"}],
            "resources": {"requests": {"cpu": "100m"}},
            "livenessProbe": probe(host, path, scheme, &often),
            "startupProbe": probe(host, path, scheme, &json!({"initialDelaySeconds": 2, "periodSeconds": 2, "failureThreshold": 90})),
            "volumeMounts": [{"name": "files", "mountPath": directory.to_string(), "readOnly": false}],
        });
        if part == "kube-apiserver" {
            container["readinessProbe"] = probe(host, "/readyz", scheme, &json!({"periodSeconds": 1, "failureThreshold": 3}));
        }
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "creationTimestamp": null, "name": part, "namespace": "kube-system",
                "labels": {"component": part, "tier": "control-plane"},
                "annotations": {"kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint": format!("{NODE_IP}:6443")},
            },
            "spec": {
                "hostNetwork": true, "priority": 2_000_001_000, "priorityClassName": "system-node-critical",
                "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [container],
                "volumes": [{"name": "files", "hostPath": {"path": directory.to_string(), "type": "DirectoryOrCreate"}}],
            },
            "status": {},
        })
    }

    fn etcd_flags(&self) -> Vec<String> {
        let data = self.plane.directory.join("etcd");
        let flags = "--listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
                     --listen-metrics-urls=http://127.0.0.1:2381 --listen-peer-urls=http://127.0.0.1:2380 \
                     --initial-advertise-peer-urls=http://127.0.0.1:2380 --initial-cluster=default=http://127.0.0.1:2380 \
                     --unsafe-no-fsync --log-level=warn";
        let flags = flags.split_whitespace().map(str::to_owned);
        [format!("--data-dir={}", data.display())].into_iter().chain(flags).collect()
    }

    fn apiserver_flags(&self) -> Vec<String> {
        let file = |name: &str| self.plane.directory.join(name).display().to_string();
        let flags = "--etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --authorization-mode=Node,RBAC --allow-privileged=true \
                     --enable-admission-plugins=NodeRestriction --kubelet-preferred-address-types=InternalIP \
                     --service-cluster-ip-range=10.96.0.0/16 --service-account-issuer=https://kubernetes.default.svc";
        let files = [
            format!("--advertise-address={NODE_IP}"),
            format!("--tls-cert-file={}", file("serving.crt")),
            format!("--tls-private-key-file={}", file("serving.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--kubelet-client-certificate={}", file("kubelet-client.crt")),
            format!("--kubelet-client-key={}", file("kubelet-client.key")),
            format!("--service-account-key-file={}", file("accounts.crt")),
            format!("--service-account-signing-key-file={}", file("accounts.key")),
        ];
        flags.split_whitespace().map(str::to_owned).chain(files).collect()
    }

    /// Writes a manifest as editors do: beside it, under a name that does not count, and then renamed.
    fn write(&self, part: &str, more: &[&str]) -> anyhow::Result<()> {
        let new = self.manifests.join(format!(".{part}.new"));
        fs::write(&new, serde_json::to_string_pretty(&self.manifest(part, more))?)?;
        Ok(fs::rename(new, self.file(part))?)
    }

    fn file(&self, part: &str) -> PathBuf {
        self.manifests.join(format!("{part}.yaml"))
    }

    fn mirror(&self, part: &str) -> anyhow::Result<Option<Value>> {
        let name = format!("pod/{part}-{NODE}");
        let text = self.plane.kubectl(&["get", "--namespace=kube-system", &name, "--output=json", "--ignore-not-found"], "")?;
        if text.trim().is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&text)?)) }
    }

    /// Waits until a part's mirror is Ready and says what is asked for.
    fn ready(&self, part: &str, says: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        until(&format!("{part} Ready"), PATIENCE, || match self.mirror(part) {
            Ok(Some(pod)) if is_ready(&pod) && says(&pod) => Ok(pod),
            other => Err(format!("{other:?}")),
        })
    }

    fn all_ready(&self) -> anyhow::Result<()> {
        PARTS.iter().try_for_each(|part| self.ready(part, |_| true).map(drop))
    }

    fn containers(&self) -> anyhow::Result<Vec<String>> {
        self.site.containerd.containers(&self.site.enclosure)
    }

    /// The ID of the container that a part's mirror tells of.
    fn container(&self, part: &str) -> anyhow::Result<String> {
        let pod = self.mirror(part)?.with_context(|| format!("no mirror of {part}"))?;
        Ok(pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default().to_owned())
    }

    /// Nothing is started, stopped or removed for a while.
    fn stays(&self) -> anyhow::Result<()> {
        let before = self.containers()?;
        throughout("nothing changes", WINDOW, || {
            let now = self.containers()?;
            ensure!(now == before, "containers and PodSandboxes before {before:?}, now {now:?}");
            Ok(())
        })
    }

    fn comes_up(&mut self) -> anyhow::Result<()> {
        for part in PARTS {
            self.write(part, &[])?;
        }
        self.all_ready()?;
        until("the node Ready", PATIENCE, || match self.plane.get(&format!("node/{NODE}")) {
            Ok(Some(node)) if is_ready(&node) => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        let pod = self.ready("kube-apiserver", |_| true)?;
        ensure!(pod["metadata"]["ownerReferences"][0]["kind"] == "Node" && pod["spec"]["priority"] == 2_000_001_000, "{pod}");
        ensure!(pod["status"]["hostIP"] == NODE_IP && pod["status"]["podIP"] == NODE_IP, "{}", pod["status"]);
        self.stays()
    }

    fn logs_and_commands(&mut self) -> anyhow::Result<()> {
        let of = |part: &str| format!("{part}-{NODE}");
        let log = self.plane.kubectl(&["logs", "--namespace=kube-system", &of("kube-scheduler")], "")?;
        ensure!(!log.trim().is_empty(), "the scheduler's log is empty");
        let said = self.plane.kubectl(&["exec", "--namespace=kube-system", &of("etcd"), "--", "etcd", "--version"], "")?;
        ensure!(said.contains("etcd Version"), "{said}");
        let mirror = self.mirror("etcd")?.context("a mirror")?;
        let known: Value = serde_json::from_str(&self.plane.raw(&format!("/api/v1/nodes/{NODE}/proxy/pods"))?)?;
        let known =
            known["items"].as_array().into_iter().flatten().find(|pod| pod["metadata"]["name"] == of("etcd").as_str()).cloned();
        let own = known.context("etcd in /pods")?["metadata"]["uid"].clone();
        let (own, mirror) = (own.as_str().unwrap_or_default(), mirror["metadata"]["uid"].as_str().unwrap_or_default());
        ensure!(own != mirror, "the mirror has a UID of the API server's: {mirror}");
        // Both are the pod's: upstream translates a mirror's (TranslatePodUID).
        for uid in [own, mirror] {
            let path = format!("/api/v1/nodes/{NODE}/proxy/run/kube-system/{}/{uid}/etcd?cmd=etcd%20--version", of("etcd"));
            let said = self.plane.kubectl(&["create", &format!("--raw={path}"), "--filename=-"], "")?;
            ensure!(said.contains("etcd Version"), "{uid}: {said}");
        }
        Ok(())
    }

    fn survives_the_agents_death(&mut self) -> anyhow::Result<()> {
        let before = self.containers()?;
        self.agent.end(&self.site.enclosure, "KILL")?;
        self.agent.start_again(&self.site.enclosure)?;
        self.stays()?;
        ensure!(self.containers()? == before, "containers before {before:?}, now {:?}", self.containers()?);
        self.all_ready()
    }

    fn mirror_that_is_deleted_stops_nothing(&mut self) -> anyhow::Result<()> {
        let before = self.containers()?;
        let uid = self.mirror("kube-scheduler")?.context("a mirror")?["metadata"]["uid"].clone();
        let pod = format!("pod/kube-scheduler-{NODE}");
        self.plane.kubectl(&["delete", "--namespace=kube-system", &pod, "--wait=false"], "")?;
        self.ready("kube-scheduler", |pod| pod["metadata"]["uid"] != uid)?;
        ensure!(self.containers()? == before, "containers before {before:?}, now {:?}", self.containers()?);
        Ok(())
    }

    fn manifests_change_go_and_come_back(&mut self) -> anyhow::Result<()> {
        let others = || ["etcd", "kube-apiserver", "kube-controller-manager"].map(|part| self.container(part));
        let before: Vec<String> = others().into_iter().collect::<Result<_, _>>()?;
        self.write("kube-scheduler", &["--v=1"])?;
        let says = |pod: &Value| {
            pod["spec"]["containers"][0]["command"].as_array().is_some_and(|all| all.iter().any(|flag| flag == "--v=1"))
        };
        self.ready("kube-scheduler", says)?;
        fs::remove_file(self.file("kube-scheduler"))?;
        until("no scheduler", PATIENCE, || match self.mirror("kube-scheduler") {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        self.write("kube-scheduler", &[])?;
        self.ready("kube-scheduler", |pod| !says(pod))?;
        let after: Vec<String> = others().into_iter().collect::<Result<_, _>>()?;
        ensure!(before == after, "the other containers before {before:?}, now {after:?}");
        Ok(())
    }

    fn api_server_goes_and_comes_back(&mut self) -> anyhow::Result<()> {
        let etcd = self.container("etcd")?;
        let apiserver = self.file("kube-apiserver");
        let aside = self.site.directory.join("aside.yaml");
        fs::rename(&apiserver, &aside)?;
        until("no API server", PATIENCE, || match self.plane.raw("/readyz") {
            Err(_) => Ok(()),
            Ok(_) => Err("it answers".to_owned()),
        })?;
        self.agent.end(&self.site.enclosure, "KILL")?;
        self.agent.start_again(&self.site.enclosure)?;
        put_back(&aside, &apiserver)?;
        self.all_ready()?;
        // The controllers may end when they lose their leases, and what has ended is removed; nothing of that touches etcd.
        throughout("etcd is left alone", WINDOW, || {
            ensure!(self.container("etcd")? == etcd, "etcd was started anew");
            ensure!(self.agent.runs(&self.site.enclosure), "the agent has ended");
            Ok(())
        })?;
        self.all_ready()
    }
}

fn put_back(from: &Path, to: &Path) -> anyhow::Result<()> {
    Ok(fs::rename(from, to)?)
}
