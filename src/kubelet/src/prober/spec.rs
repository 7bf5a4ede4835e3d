//! Decides what a probe of the spec means: what to call, how often, and how many answers in a row make a verdict.
//! Upstream: pkg/apis/core/v1/defaults.go (SetDefaults_Probe), pkg/probe/util.go, pkg/kubelet/prober/prober.go.
//! Differs: no probe takes longer than an hour, whatever its `timeoutSeconds`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::num::{IntErrorKind, ParseIntError};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::action::ProbeCall;
use crate::limits::Room;
use crate::pod::env::expand;

/// How long a probe may take at most. The API takes any number; one that asks for 68 years would never end.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// The kinds of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Whether it has come up.
    Startup,
    /// Whether it can serve.
    Readiness,
    /// Whether it lives.
    Liveness,
}

impl ProbeKind {
    /// As events and metrics name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// A probe, with its defaults (POD-240).
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeSpec {
    /// Its kind.
    pub kind: ProbeKind,
    /// How often.
    pub period: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How long after the container's start the first one comes.
    pub initial_delay: Duration,
    /// Successes in a row that count.
    pub success_threshold: i32,
    /// Failures in a row that count.
    pub failure_threshold: i32,
    command: Result<Vec<String>, String>,
    probe: Box<Probe>,
    container: Box<Container>,
}

/// One probe of a pod.
#[derive(Clone, Debug)]
pub struct PodProbe {
    /// Its container's name.
    pub container: String,
    /// The container's field path.
    pub field_path: String,
    /// The probe.
    pub spec: Arc<ProbeSpec>,
}

/// The probes of a pod. Regular containers and sidecars have them (POD-240). Costs a pass over the spec: made once for each spec.
pub fn probes_of(pod: &Pod) -> Vec<PodProbe> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let regular = spec.containers.iter().map(|c| (c, "containers"));
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let (mut probes, mut room) = (Vec::new(), Room::of_probes());
    for (container, list) in regular.chain(sidecars.map(|c| (c, "initContainers"))) {
        let kinds = [
            (ProbeKind::Startup, &container.startup_probe),
            (ProbeKind::Readiness, &container.readiness_probe),
            (ProbeKind::Liveness, &container.liveness_probe),
        ];
        let literals = if kinds.iter().any(|(_, probe)| probe.is_some()) { literals(container) } else { BTreeMap::new() };
        for (kind, probe) in kinds {
            if let Some(probe) = probe {
                let field_path = format!("spec.{list}{{{}}}", container.name);
                let spec = Arc::new(ProbeSpec::new(kind, probe, container, &literals, &mut room));
                probes.push(PodProbe { container: container.name.clone(), field_path, spec });
            }
        }
    }
    probes
}

/// POD-168: of a probe's command only variables with a value of their own are expanded; one from elsewhere is empty.
fn literals(container: &Container) -> BTreeMap<&str, &str> {
    container.env.iter().flatten().map(|variable| (variable.name.as_str(), variable.value.as_deref().unwrap_or_default())).collect()
}

impl ProbeSpec {
    fn new(kind: ProbeKind, probe: &Probe, container: &Container, literals: &BTreeMap<&str, &str>, room: &mut Room) -> Self {
        let seconds = |value: Option<i32>, default: u64| {
            let given = value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0);
            Duration::from_secs(given.unwrap_or(default))
        };
        let literal = |name: &str| literals.get(name).map(|value| Cow::Borrowed(*value));
        let words = probe.exec.iter().flat_map(|e| e.command.iter().flatten());
        let threshold = |value: Option<i32>, default: i32| value.filter(|v| *v > 0).unwrap_or(default);
        Self {
            kind,
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1).min(LONGEST_TIMEOUT),
            initial_delay: Duration::from_secs(probe.initial_delay_seconds.and_then(|v| u64::try_from(v).ok()).unwrap_or(0)),
            success_threshold: threshold(probe.success_threshold, 1),
            failure_threshold: threshold(probe.failure_threshold, 3),
            command: words.map(|word| expand(word, room, literal)).collect(),
            probe: Box::new(Probe { exec: None, ..probe.clone() }),
            container: Box::new(Container { ports: container.ports.clone(), ..Container::default() }),
        }
    }

    /// The command of an exec probe; empty for the others, and for one that is too long.
    #[must_use]
    pub fn command(&self) -> &[String] {
        self.command.as_deref().unwrap_or_default()
    }

    /// Whether it is a request over HTTP.
    #[must_use]
    pub fn is_http(&self) -> bool {
        self.command.as_ref().is_ok_and(Vec::is_empty) && self.probe.http_get.is_some()
    }

    /// The network call that it makes; `None` for an exec probe.
    ///
    /// # Errors
    /// A command that is too long, a port that cannot be resolved, a pod without an IP, or a probe without a handler: in words.
    pub fn call(&self, pod_ip: &str) -> Result<Option<ProbeCall>, String> {
        if !self.command.as_ref().map_err(Clone::clone)?.is_empty() {
            return Ok(None);
        }
        let host_or_pod = |host: Option<&String>| match host.filter(|h| !h.is_empty()) {
            Some(host) => Ok(host.clone()),
            None if pod_ip.is_empty() => Err("pod has no IP".to_owned()),
            None => Ok(pod_ip.to_owned()),
        };
        if let Some(http) = &self.probe.http_get {
            let headers = http.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
            return Ok(Some(ProbeCall::Http {
                scheme: http.scheme.clone().unwrap_or_else(|| "HTTP".to_owned()).to_ascii_lowercase(),
                host: host_or_pod(http.host.as_ref())?,
                port: resolve_port(&http.port, &self.container)?,
                path: http.path.clone().unwrap_or_else(|| "/".to_owned()),
                headers,
                lifecycle: false,
            }));
        }
        if let Some(tcp) = &self.probe.tcp_socket {
            let port = resolve_port(&tcp.port, &self.container)?;
            return Ok(Some(ProbeCall::Tcp { host: host_or_pod(tcp.host.as_ref())?, port }));
        }
        if let Some(grpc) = &self.probe.grpc {
            let port = resolve_port(&IntOrString::Int(grpc.port), &self.container)?;
            let service = grpc.service.clone().unwrap_or_default();
            return Ok(Some(ProbeCall::Grpc { host: host_or_pod(None)?, port, service }));
        }
        Err("missing probe handler".to_owned())
    }
}

/// A port by number, or by its name among the container's ports.
///
/// # Errors
/// In upstream's words.
pub fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            match named {
                Some(port) => i64::from(port.container_port),
                None => name.parse::<i64>().map_err(|error| not_a_number(name, &error))?,
            }
        }
    };
    u16::try_from(number).ok().filter(|p| *p > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// As strconv.Atoi says it: it is upstream's last resort for a port whose name no port of the container has.
fn not_a_number(text: &str, error: &ParseIntError) -> String {
    let what = match error.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!("strconv.Atoi: parsing {text:?}: {what}")
}
