//! A real etcd and kube-apiserver beside the agent, as a cluster that cares has them: node authorization, NodeRestriction, an audit
//! log. Controllers and a scheduler run if their programs are there too; without them, the tests make what they would make.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use model::api::authorize::Identity;
use serde_json::{Value, json};
use wire::apiserver::pki::Pki;

use crate::live::enclosure::NODE_IP;
use crate::live::site::Site;
use crate::live::wait::until;

/// An API server takes its time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// How many seconds kubectl may take.
const LONGEST: &str = "90";

/// Only what was answered, not what was said.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";

/// The programs.
pub(crate) struct Programs {
    pub(super) etcd: PathBuf,
    pub(super) apiserver: PathBuf,
    kubectl: PathBuf,
    /// `kube-controller-manager` and `kube-scheduler`, which not everybody has beside the others, or wants.
    pub(crate) controllers: Option<[PathBuf; 2]>,
}

impl Programs {
    /// Those in `KUBEBUILDER_ASSETS`.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn find() -> Result<Self, String> {
        let Some(folder) = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) else {
            return Err("KUBEBUILDER_ASSETS is not set".to_owned());
        };
        let controllers = ["kube-controller-manager", "kube-scheduler"].map(|name| folder.join(name));
        let found = Self {
            etcd: folder.join("etcd"),
            apiserver: folder.join("kube-apiserver"),
            kubectl: folder.join("kubectl"),
            controllers: Some(controllers).filter(|programs| programs.iter().all(|program| program.is_file())),
        };
        let missing: Vec<String> = [&found.etcd, &found.apiserver, &found.kubectl]
            .into_iter()
            .filter(|program| !program.is_file())
            .map(|program| program.display().to_string())
            .collect();
        if missing.is_empty() { Ok(found) } else { Err(missing.join(", ")) }
    }
}

/// The control plane that runs.
pub(crate) struct ControlPlane {
    kubectl: PathBuf,
    /// Where its files are.
    pub(crate) directory: PathBuf,
    pub(crate) pki: Pki,
    /// Whether controllers and a scheduler run.
    pub(crate) controlled: bool,
}

impl ControlPlane {
    /// Writes its files, and starts nothing.
    pub(super) fn prepare(site: &Site, programs: &Programs) -> anyhow::Result<Self> {
        let directory = site.directory.join("control-plane");
        fs::create_dir_all(&directory)?;
        let controlled = programs.controllers.is_some();
        let plane = Self { kubectl: programs.kubectl.clone(), directory, pki: Pki::new()?, controlled };
        let write = |name: &str, text: &str| fs::write(plane.directory.join(name), text).context(name.to_owned());
        let pair = |name: &str, pair: wire::apiserver::pki::PemPair| {
            write(&format!("{name}.crt"), &pair.certificate).and_then(|()| write(&format!("{name}.key"), &pair.key))
        };
        write("ca.crt", &plane.pki.ca_certificate)?;
        write("audit.yaml", AUDIT_POLICY)?;
        pair("serving", plane.pki.server_pair(&[NODE_IP, "127.0.0.1", "10.96.0.1", "localhost", "kubernetes"])?)?;
        pair("kubelet-client", plane.pki.client_pair(&Identity::new("kube-apiserver-kubelet-client", &["system:masters"]))?)?;
        // Any pair will do: tokens are signed with its key.
        pair("accounts", plane.pki.client_pair(&Identity::new("accounts", &[]))?)?;
        write("admin.kubeconfig", &plane.kubeconfig(&Identity::admin())?)?;
        Ok(plane)
    }

    /// Starts both and waits until they answer.
    pub(crate) fn start(site: &Site, programs: Programs) -> anyhow::Result<Self> {
        let plane = Self::prepare(site, &programs)?;
        let file = |name: &str| plane.directory.join(name).display().to_string();
        let etcd = format!(
            "{} --data-dir={} --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
             --listen-peer-urls=http://127.0.0.1:2380 --initial-advertise-peer-urls=http://127.0.0.1:2380 \
             --initial-cluster=default=http://127.0.0.1:2380 --unsafe-no-fsync --log-level=warn",
            programs.etcd.display(),
            file("etcd")
        );
        site.enclosure.start(&etcd, &plane.directory.join("etcd.log"))?;
        let flags = [
            format!("--bind-address={NODE_IP}"),
            format!("--advertise-address={NODE_IP}"),
            format!("--tls-cert-file={} --tls-private-key-file={}", file("serving.crt"), file("serving.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--kubelet-client-certificate={}", file("kubelet-client.crt")),
            format!("--kubelet-client-key={}", file("kubelet-client.key")),
            format!("--service-account-key-file={}", file("accounts.crt")),
            format!("--service-account-signing-key-file={}", file("accounts.key")),
            format!("--audit-policy-file={} --audit-log-path={}", file("audit.yaml"), file("audit.log")),
        ];
        let apiserver = format!(
            "{} --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --authorization-mode=Node,RBAC \
             --enable-admission-plugins=NodeRestriction --enable-bootstrap-token-auth=true --allow-privileged=true --kubelet-preferred-address-types=InternalIP \
             --service-cluster-ip-range=10.96.0.0/16 --service-account-issuer=https://kubernetes.default.svc --v=1 {}",
            programs.apiserver.display(),
            flags.join(" ")
        );
        site.enclosure.start(&apiserver, &plane.directory.join("apiserver.log"))?;
        let ready = until("a ready API server", PATIENCE, || {
            plane.kubectl(&["get", "--raw=/readyz"], "").map_err(|error| error.to_string())
        });
        ready.with_context(|| fs::read_to_string(plane.directory.join("apiserver.log")).unwrap_or_default())?;
        if let Some([controllers, scheduler]) = programs.controllers {
            let common = format!("--kubeconfig={} --leader-elect=false", file("admin.kubeconfig"));
            let account = format!("--service-account-private-key-file={} --root-ca-file={}", file("accounts.key"), file("ca.crt"));
            let controllers = format!("{} {common} {account}", controllers.display());
            site.enclosure.start(&controllers, &plane.directory.join("controllers.log"))?;
            let scheduler = format!("{} {common}", scheduler.display());
            site.enclosure.start(&scheduler, &plane.directory.join("scheduler.log"))?;
        }
        Ok(plane)
    }

    /// A kubeconfig of that identity.
    pub(crate) fn kubeconfig(&self, who: &Identity) -> anyhow::Result<String> {
        Ok(self.pki.kubeconfig(&format!("https://{NODE_IP}:6443"), who)?)
    }

    /// kubectl as an administrator.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.directory.join("admin.kubeconfig")).args(args);
        // Where it keeps what it learns of the API.
        command.env("HOME", &self.directory).stdin(Stdio::null());
        command
    }

    /// Runs kubectl as an administrator; what it printed.
    pub(crate) fn kubectl(&self, args: &[&str], input: &str) -> anyhow::Result<String> {
        let command = self.command(&[]);
        let mut child = Command::new("timeout")
            .arg(LONGEST)
            .arg(command.get_program())
            .args(command.get_args())
            .args(args)
            .env("HOME", &self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // One that ends before it has read everything says why.
        let _closed = child.stdin.take().map(|mut pipe| pipe.write_all(input.as_bytes()));
        let output = child.wait_with_output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            bail!("kubectl {args:?}: {} {}{}", output.status, text(&output.stdout), text(&output.stderr));
        }
        Ok(text(&output.stdout))
    }

    /// Makes objects.
    pub(crate) fn create(&self, objects: &[Value]) -> anyhow::Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.kubectl(&["create", "--filename=-"], &list.to_string()).map(drop)
    }

    /// Makes one object; as the server has it.
    pub(crate) fn create_one(&self, object: &Value) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&["create", "--output=json", "--filename=-"], &object.to_string())?)?)
    }

    /// What is at that path.
    pub(crate) fn raw(&self, path: &str) -> anyhow::Result<String> {
        self.kubectl(&["get", &format!("--raw={path}")], "")
    }

    /// An object, or nothing: `pod/name`.
    pub(crate) fn get(&self, what: &str) -> anyhow::Result<Option<Value>> {
        let text = self.kubectl(&["get", what, "--output=json", "--ignore-not-found"], "")?;
        if text.trim().is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&text)?)) }
    }

    /// What controllers give to a namespace, so that pods can be made in it.
    pub(crate) fn furnish(&self) -> anyhow::Result<()> {
        let of =
            |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}});
        let authority = |name: &str, key: &str| {
            let mut map = of("ConfigMap", name);
            map["data"] = json!({key: self.pki.ca_certificate});
            map
        };
        // The API server makes the namespace in its own time.
        until("the namespace", PATIENCE, || match self.get("namespace/default") {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        if self.controlled {
            until("what controllers make", PATIENCE, || {
                match (self.get("serviceaccount/default"), self.get("configmap/kube-root-ca.crt")) {
                    (Ok(Some(_)), Ok(Some(_))) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })?;
        } else {
            // The last is mounted by OpenShift's API server only.
            let authorities = [authority("kube-root-ca.crt", "ca.crt"), authority("openshift-service-ca.crt", "service-ca.crt")];
            self.create(&[of("ServiceAccount", "default")])?;
            self.create(&authorities)?;
        }
        Ok(())
    }

    /// The requests of that user that were refused (403), or that deleted in vain (404).
    pub(crate) fn refused(&self, user: &str) -> anyhow::Result<Vec<String>> {
        let text = fs::read_to_string(self.directory.join("audit.log"))?;
        anyhow::ensure!(text.contains(user), "the audit log does not know {user}");
        let entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let refused = entries.filter(|entry| {
            let code = &entry["responseStatus"]["code"];
            entry["user"]["username"] == user && (*code == 403 || (*code == 404 && entry["verb"] == "delete"))
        });
        Ok(refused.map(|entry| format!("{} {}: {}", entry["verb"], entry["requestURI"], entry["responseStatus"])).collect())
    }
}
