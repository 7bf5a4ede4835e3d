//! What a scenario file may say.
//! Upstream: none.
//! Differs: nothing on purpose.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::runtime::behaviour::parse_duration;

/// Where a scenario runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The core against the models, without wires.
    Model,
    /// The agent over simulated networks.
    Sim,
    /// The agent against a real runtime.
    Live,
}

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// What must hold, as a sentence.
    pub about: String,
    /// Behaviour IDs and upstream issues that it answers to.
    #[serde(default)]
    pub refs: Vec<String>,
    /// Where it runs.
    pub stages: Vec<Stage>,
    /// What differs from an ordinary node.
    #[serde(default)]
    pub node: NodeSpec,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// What differs from an ordinary node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct NodeSpec {
    /// Whether the runtime tells of changes.
    pub runtime_events: bool,
    /// One hint of the runtime in that many gets lost.
    pub hints_lost: u64,
    /// Images that a registry has; if any are named, pulls of others fail.
    pub registry: Vec<String>,
    /// Images that a registry gives to one user only, with `user:password`.
    pub private: std::collections::BTreeMap<String, String>,
    /// Private images that the node's docker config opens.
    pub docker_config: Vec<String>,
    /// Private images that a credential provider plugin opens.
    pub credential_plugin: Vec<String>,
    /// How changes of ConfigMaps and Secrets are noticed: `Watch`, `Cache` or `Get`.
    pub change_detection: Option<String>,
    /// How long after a pod is bound the API server's Node authorizer hears of it.
    #[serde(deserialize_with = "duration")]
    pub authorizer_lag: Duration,
    /// How many pods fit.
    pub max_pods: Option<u32>,
    /// Whether pods lie in cgroups of the agent's making.
    pub cgroups_per_qos: bool,
    /// How many images are pulled at once.
    pub parallel_pulls: Option<u32>,
    /// Whether `staticPodPath` is set.
    pub static_pods: bool,
    /// Whether `staticPodURL` is set.
    pub static_url: bool,
    /// Whether an external cloud provider initializes the node.
    pub external_cloud: bool,
    /// The machine's addresses on the way to its default gateways.
    pub addresses: Vec<IpAddr>,
    /// Handlers of the runtime that mount recursively read-only.
    pub recursive_read_only: Vec<String>,
}

impl Default for NodeSpec {
    fn default() -> Self {
        Self {
            runtime_events: true,
            hints_lost: 0,
            registry: Vec::new(),
            private: std::collections::BTreeMap::new(),
            docker_config: Vec::new(),
            credential_plugin: Vec::new(),
            change_detection: None,
            authorizer_lag: Duration::ZERO,
            max_pods: None,
            cgroups_per_qos: true,
            parallel_pulls: None,
            static_pods: false,
            static_url: false,
            external_cloud: false,
            addresses: vec![[10, 77, 0, 1].into()],
            recursive_read_only: Vec::new(),
        }
    }
}

/// One step. All that it names is done, in the order of the fields; then its expectation is waited for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Step {
    /// When, since the run began; without it, at once after the step before.
    #[serde(deserialize_with = "some_duration")]
    pub at: Option<Duration>,
    /// How long to let time pass first.
    #[serde(deserialize_with = "some_duration")]
    pub wait: Option<Duration>,
    /// Objects to make, or to replace; pods are bound to the node.
    pub apply: Vec<Value>,
    /// A strategic merge patch by an administrator.
    pub patch: Option<Patch>,
    /// Something to delete.
    pub delete: Option<Delete>,
    /// A planned fault.
    pub fault: Option<Fault>,
    /// The agent is killed.
    pub crash: Option<Crash>,
    /// The API server goes away.
    pub api: Option<Away>,
    /// The runtime goes away.
    pub runtime: Option<RuntimeAway>,
    /// A container is killed from outside.
    pub kill: Option<Kill>,
    /// The node's clock jumps.
    pub clock: Option<Jump>,
    /// A CSI driver starts on the node, or stops.
    pub driver: Option<DriverStep>,
    /// A file at the static pod path is written, or removed.
    pub manifest: Option<ManifestStep>,
    /// The static pod URL answers otherwise from here on.
    pub url: Option<UrlStep>,
    /// The core panics for a pod.
    pub poison: Option<PoisonStep>,
    /// An object is stored as nobody can read it, or is mended.
    pub spoil: Option<Spoil>,
    /// Many objects of one kind are made.
    pub many: Option<Many>,
    /// No more faults from here.
    pub heal: bool,
    /// The node's address from here on; the agent of a later life sees it in any case.
    pub address: Option<String>,
    /// The disk is full, or is not any more.
    pub disk_full: Option<bool>,
    /// Whether the runtime's network is ready.
    pub network_ready: Option<bool>,
    /// The machine's addresses change.
    pub addresses: Option<Vec<IpAddr>>,
    /// What must come true, and within which time.
    pub expect: Option<Expect>,
    /// What must be true the whole time given.
    pub holds: Option<Expect>,
}

/// A patch by an administrator.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// The plural, and the subresource after a slash: `pods/status`.
    pub resource: String,
    /// The namespace.
    #[serde(default)]
    pub namespace: String,
    /// The name.
    pub name: String,
    /// What changes.
    pub with: Value,
}

/// Something is written into an object past all checks (RFC 7396).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spoil {
    /// The plural; pods unless it says otherwise.
    #[serde(default = "pods")]
    pub resource: String,
    /// The namespace; empty for what has none.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// The name.
    pub name: String,
    /// What is written: something that is no text where one has to be, unless it says otherwise.
    #[serde(default = "not_a_text")]
    pub with: Value,
}

fn not_a_text() -> Value {
    serde_json::json!({"metadata": {"selfLink": 7}})
}

/// Many objects of one kind are made, which differ in their names.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Many {
    /// One of them; its number follows its name.
    pub object: Value,
    /// How many.
    pub times: u32,
    /// How many bytes an annotation adds to each.
    #[serde(default)]
    pub padding: usize,
}

/// Something to delete.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    /// The plural; pods unless it says otherwise.
    #[serde(default = "pods")]
    pub resource: String,
    /// The namespace.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The grace period in seconds, unless the object's own.
    pub grace: Option<i64>,
}

fn pods() -> String {
    "pods".to_owned()
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// A planned fault.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fault {
    /// The call's name, or `*`.
    pub call: String,
    /// How many such calls go well before.
    #[serde(default)]
    pub skip: u32,
    /// How many fail.
    #[serde(default = "once")]
    pub times: u32,
    /// How.
    pub fate: FaultFate,
}

fn once() -> u32 {
    1
}

/// How a call fails.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultFate {
    /// At once, without effect, with that message.
    Fails(String),
    /// 429.
    Throttled,
    /// 503, or gRPC Unavailable.
    Unavailable,
    /// 409.
    Conflict,
    /// No effect, no answer.
    Lost,
    /// Effect, no answer.
    ReplyLost,
    /// Effect after the caller gave up, that much later.
    #[serde(deserialize_with = "duration")]
    Late(Duration),
    /// Slow by that much.
    #[serde(deserialize_with = "duration")]
    Slow(Duration),
}

/// The agent is killed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crash {
    /// After how long it starts again.
    #[serde(deserialize_with = "duration")]
    pub back: Duration,
}

/// The API server goes away.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Away {
    /// For how long it refuses connections; then watches begin anew.
    #[serde(default, deserialize_with = "some_duration")]
    pub away: Option<Duration>,
    /// For how long nothing comes through.
    #[serde(default, deserialize_with = "some_duration")]
    pub silent: Option<Duration>,
    /// For how long what is sent is lost, and connections with it, without either side being told.
    #[serde(default, deserialize_with = "some_duration")]
    pub forgotten: Option<Duration>,
    /// Whether the history is compacted: watches get 410 and list anew.
    #[serde(default)]
    pub compact: bool,
}

/// The runtime goes away.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RuntimeAway {
    /// For how long.
    #[serde(deserialize_with = "duration")]
    pub away: Duration,
    /// Whether its containers die.
    #[serde(default)]
    pub containers_die: bool,
}

/// A container, or a whole sandbox, is killed from outside.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    /// The pod's name.
    pub pod: String,
    /// The container's name; without it the pod's sandbox dies, and with it all that runs in it.
    pub container: Option<String>,
    /// Whether the runtime forgets the container and all its instances.
    #[serde(default)]
    pub forgotten: bool,
    /// The exit code.
    #[serde(default = "sigkill")]
    pub code: i32,
    /// The runtime's reason.
    #[serde(default = "error_reason")]
    pub reason: String,
}

fn sigkill() -> i32 {
    137
}

fn error_reason() -> String {
    "Error".to_owned()
}

/// A CSI driver starts on the node, or stops.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DriverStep {
    /// Its name.
    pub name: String,
    /// Whether it stops.
    #[serde(default)]
    pub stops: bool,
    /// Whether it stages volumes before it publishes them.
    #[serde(default = "yes")]
    pub stages: bool,
}

fn yes() -> bool {
    true
}

/// A file at the static pod path is written; without contents it is removed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestStep {
    /// Its name.
    pub file: String,
    /// The pod in it.
    pub pod: Option<Value>,
    /// What is in it, if that is not to be a pod.
    pub text: Option<String>,
}

/// What the static pod URL answers: pods, or a text, or nobody does.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UrlStep {
    /// One pod.
    pub pod: Option<Value>,
    /// A list of pods.
    pub pods: Option<Vec<Value>>,
    /// What is answered, if that is not to be pods.
    pub text: Option<String>,
    /// The status, unless it is 200.
    pub status: Option<u16>,
}

/// The core panics for a pod.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PoisonStep {
    /// The pod's name.
    pub pod: String,
    /// Where, by the name of the place; anywhere unless it is named.
    pub at: Option<String>,
    /// How often it goes well before.
    #[serde(default)]
    pub skip: u32,
    /// How often.
    #[serde(default = "once")]
    pub times: u32,
    /// Whether the whole process dies of it.
    #[serde(default)]
    pub kills: bool,
}

/// The node's clock jumps.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jump {
    /// Forwards by that much.
    #[serde(default, deserialize_with = "some_duration")]
    pub forwards: Option<Duration>,
    /// Backwards by that much.
    #[serde(default, deserialize_with = "some_duration")]
    pub backwards: Option<Duration>,
}

/// What must be true.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Expect {
    /// Within which time it must come true, or for how long it must hold; at once if not given.
    #[serde(deserialize_with = "some_duration")]
    pub within: Option<Duration>,
    /// Of pods, by name.
    pub pods: Vec<PodExpect>,
    /// Whether the node is Ready.
    pub node_ready: Option<bool>,
    /// What the Node says, by JSON pointer; `null` is nothing.
    pub node_is: std::collections::BTreeMap<String, Value>,
    /// That nothing of any pod is left in the runtime and on the disk.
    pub nothing_left: bool,
    /// That the cluster has settled: everything is as the API server says, and the API server knows it.
    pub settled: bool,
    /// At most how many calls were made, by name.
    pub calls_at_most: std::collections::BTreeMap<String, u64>,
    /// At least how many calls reached the other side, by name.
    pub calls_at_least: std::collections::BTreeMap<String, u64>,
    /// How many volumes are staged.
    pub staged: Option<usize>,
    /// How many volumes are published.
    pub published: Option<usize>,
    /// Reasons of events that were stored.
    pub events: Vec<String>,
    /// Reasons of events that were not.
    pub no_events: Vec<String>,
    /// Parts of messages of events that were stored.
    pub event_messages: Vec<String>,
    /// Lives of the agent so far.
    pub lives: Option<u32>,
}

/// What must be true of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct PodExpect {
    /// Its name.
    pub name: String,
    /// Its namespace.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Whether it is gone.
    pub gone: bool,
    /// The container that is meant below, of whichever kind; the first regular one unless it is named.
    pub container: Option<String>,
    /// Its phase.
    pub phase: Option<String>,
    /// Its reason.
    pub reason: Option<String>,
    /// Whether it is Ready.
    pub ready: Option<bool>,
    /// Its conditions by type: status, reason and message with blanks between, or the beginning of that; `none` if it has none such.
    pub conditions: std::collections::BTreeMap<String, String>,
    /// The restart count of its container.
    pub restarts: Option<u64>,
    /// The reason for which its container waits.
    pub waiting: Option<String>,
    /// A part of the message with which its container waits.
    pub waiting_message: Option<String>,
    /// The exit code of its container, in its state or its last state.
    pub exit_code: Option<i64>,
    /// The reason of its container's end, in its state or its last state.
    pub terminated: Option<String>,
    /// How many bytes its container's message has, in its state or its last state.
    pub message_bytes: Option<usize>,
    /// What it and its container are said to have, by resource, as `limits.memory`, `requests.cpu` or `allocated.cpu` of the container;
    /// of the pod as a whole after `pod.`. `none` if nothing is said.
    pub resources: std::collections::BTreeMap<String, String>,
    /// The node's addresses in its status.
    pub host_ips: Option<Vec<String>>,
    /// The runtime's handler of its sandbox; empty for the default.
    pub handler: Option<String>,
    /// How many containers of it run.
    pub running: Option<usize>,
    /// How often containers of it were ever started.
    pub starts: Option<usize>,
    /// What files in its volumes say, by `VOLUME/PATH`.
    pub files: std::collections::BTreeMap<String, String>,
}

fn duration<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(input)?;
    parse_duration(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a duration; write 500ms, 3s, 2m or 1h")))
}

fn some_duration<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    duration(input).map(Some)
}
