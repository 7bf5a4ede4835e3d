//! A node that has nothing but a bootstrap token, as `kubeadm join` leaves it: it joins, and renews what it got.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use serde_json::{Value, json};
use wire::apiserver::pki::{ReadRequest, Use};

use super::{Cluster, SOON, now};
use crate::live::agent::{Agent, Credentials};
use crate::live::bed::is_ready;
use crate::live::enclosure::NODE_IP;
use crate::live::wait::{throughout, until};

const JOINER: &str = "joiner";
const OWN: &str = "system:node:joiner";
const TOKEN: (&str, &str) = ("abcdef", "0123456789abcdef");
/// The life of the first certificate: renewed at seven to nine tenths of it.
const SHORT: Duration = Duration::from_secs(40);
const LONG: Duration = Duration::from_secs(86_400);
/// How long a renewed node is looked at: its lease is renewed every ten seconds.
const WINDOW: Duration = Duration::from_secs(25);

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

pub(super) fn token_is_enough(cluster: &mut Cluster) -> anyhow::Result<()> {
    // It has the ports.
    cluster.agent.end(&cluster.site.enclosure, "TERM")?;
    let plane = &cluster.plane;
    plane.create(&furniture())?;
    let bootstrap = plane.pki.token_kubeconfig(&format!("https://{NODE_IP}:6443"), &format!("{}.{}", TOKEN.0, TOKEN.1));
    let agent = cluster.site.start_agent_as(JOINER, JOINER, Credentials::Bootstrap(&bootstrap), &plane.pki.ca_certificate)?;
    let joined = joins(cluster);
    let ended = end(cluster, &agent);
    cluster.agent.start_again(&cluster.site.enclosure)?;
    cluster.started = now();
    joined.and(ended)
}

/// What kubeadm makes for its tokens.
fn furniture() -> [Value; 2] {
    [
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": format!("bootstrap-token-{}", TOKEN.0), "namespace": "kube-system"},
            "stringData": {
                "token-id": TOKEN.0, "token-secret": TOKEN.1, "usage-bootstrap-authentication": "true",
                "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
            },
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "kubeadm:kubelet-bootstrap"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-bootstrapper"},
            "subjects": [
                {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:bootstrappers:kubeadm:default-node-token"},
            ],
        }),
    ]
}

fn joins(cluster: &Cluster) -> anyhow::Result<()> {
    let first = open_request(cluster, "system:bootstrap:abcdef")?;
    ensure!(first["spec"]["signerName"] == "kubernetes.io/kube-apiserver-client-kubelet", "{first}");
    sign(cluster, &first, SHORT)?;
    let plane = &cluster.plane;
    until("the node Ready", SOON, || match plane.get(&format!("node/{JOINER}")) {
        Ok(Some(node)) if is_ready(&node) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let directory = cluster.site.directory.join(JOINER);
    let current = directory.join("certificates/kubelet-client-current.pem");
    let pair = fs::read_link(&current).context("the link to the pair in use")?;
    ensure!(fs::metadata(&pair)?.permissions().mode() & 0o777 == 0o600, "the mode of {}", pair.display());
    usable_by_kubectl(cluster, &directory.join("kubeconfig"))?;

    let second = open_request(cluster, OWN)?;
    sign(cluster, &second, LONG)?;
    until("the second pair", SOON, || match fs::read_link(&current) {
        Ok(now) if now != pair => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    // The first certificate ends meanwhile.
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{JOINER}");
    throughout("a lease that is renewed", WINDOW, || {
        let lease: Value = serde_json::from_str(&plane.raw(&path)?)?;
        let renewed: Timestamp = lease["spec"]["renewTime"].as_str().context("a renew time")?.parse()?;
        let age = wall().duration_since(renewed);
        ensure!(age < SignedDuration::from_secs(15), "it is {age} old");
        Ok(())
    })?;
    let refused = plane.refused(OWN)?;
    ensure!(refused.is_empty(), "{refused:#?}");
    Ok(())
}

/// The kubeconfig that the agent wrote is one for anybody who may read it, as kubeadm does after a join.
fn usable_by_kubectl(cluster: &Cluster, kubeconfig: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(cluster.plane.command(&[]).get_program());
    command.arg("--kubeconfig").arg(kubeconfig).args(["get", "node", JOINER, "--output=name"]);
    let output = command.env("HOME", &cluster.plane.directory).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.trim() == format!("node/{JOINER}"), "{said} {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The request of that user that nobody has answered yet.
fn open_request(cluster: &Cluster, user: &str) -> anyhow::Result<Value> {
    until(&format!("a request of {user}"), SOON, || {
        let list: Value =
            serde_json::from_str(&cluster.plane.raw(REQUESTS).map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        let requests = list["items"].as_array().cloned().unwrap_or_default();
        let open = requests.iter().find(|r| r["spec"]["username"] == user && r["status"]["conditions"].is_null());
        open.cloned().ok_or_else(|| list.to_string())
    })
}

/// Approves and signs, as a controller manager does.
fn sign(cluster: &Cluster, request: &Value, life: Duration) -> anyhow::Result<()> {
    let plane = &cluster.plane;
    let name = request["metadata"]["name"].as_str().context("a name")?;
    plane.kubectl(&["certificate", "approve", name], "")?;
    let pem: ByteString = serde_json::from_value(request["spec"]["request"].clone())?;
    let read = ReadRequest::new(&pem.0)?;
    ensure!(read.asked.organizations == ["system:nodes"] && read.asked.common_name == OWN, "{:?}", read.asked);
    let certificate = plane.pki.sign_request(&read, Use::Client, wall(), wall() + SignedDuration::try_from(life)?)?;
    let mut approved: Value = serde_json::from_str(&plane.raw(&format!("{REQUESTS}/{name}"))?)?;
    approved["status"]["certificate"] = serde_json::to_value(ByteString(certificate.into_bytes()))?;
    plane.kubectl(&["replace", &format!("--raw={REQUESTS}/{name}/status"), "--filename=-"], &approved.to_string()).map(drop)
}

fn end(cluster: &Cluster, agent: &Agent) -> anyhow::Result<()> {
    ensure!(agent.runs(&cluster.site.enclosure), "the agent has ended");
    ensure!(agent.end(&cluster.site.enclosure, "TERM")? == 0, "its exit code");
    cluster.plane.kubectl(&["delete", &format!("node/{JOINER}")], "").map(drop)
}

#[expect(clippy::disallowed_methods, reason = "nothing is simulated here")]
fn wall() -> Timestamp {
    Timestamp::now()
}
