//! What is seen while a case runs: every version of its pods, its events, and what the runtime was told and did.

use std::collections::BTreeMap;
use std::sync::Arc;

use kubelet::observation::ContainerState;
use model::api::store::ChangeKind;
use model::scenario::expect::View;
use serde_json::Value;

use super::conditions::{Facts, holds};

/// A sandbox or container that was made.
pub(super) struct Made {
    /// Its pod's name.
    pub(super) pod: String,
    /// Its name; `None` for a sandbox.
    pub(super) container: Option<String>,
    /// Which attempt.
    pub(super) attempt: u64,
    /// What it was made with.
    pub(super) config: Value,
    /// What the runtime made of that, where it is real: an OCI spec.
    pub(super) spec: Value,
    /// The RuntimeClass handler of a sandbox.
    pub(super) handler: String,
    /// What of its life was seen so far.
    life: Life,
}

#[derive(Default)]
struct Life {
    started: bool,
    entered: bool,
    ended: bool,
}

impl Made {
    /// A sandbox or container of that pod, of which nothing else was seen yet.
    pub(super) fn new(pod: &str, container: Option<&str>, attempt: u64, config: Value, handler: &str) -> Self {
        let (pod, container, handler) = (pod.to_owned(), container.map(str::to_owned), handler.to_owned());
        Self { pod, container, attempt, config, spec: Value::Null, handler, life: Life::default() }
    }
}

/// All that is seen of one case.
#[derive(Default)]
pub(super) struct Seen {
    /// The namespace that is looked at.
    pub(super) namespace: String,
    /// The newest of each pod, by name.
    pub(super) pods: BTreeMap<String, Arc<Value>>,
    /// The last of each that is gone.
    pub(super) gone: BTreeMap<String, Arc<Value>>,
    /// All events, by name.
    pub(super) events: BTreeMap<String, Arc<Value>>,
    /// Every version of every pod, in order, and whether it was the last.
    pub(super) versions: Vec<(String, bool, Arc<Value>)>,
    /// What was made, by its ID.
    pub(super) made: BTreeMap<String, Made>,
    /// What the runtime did, by pod: the words of the recordings.
    pub(super) deeds: BTreeMap<String, Vec<String>>,
    /// What containers said, by pod and container, and what steps were answered; empty where nobody can say anything.
    pub(super) logs: BTreeMap<String, Value>,
    /// What things are called here, and in the recordings.
    pub(super) places: Vec<(String, String)>,
    revision: u64,
}

impl Seen {
    /// What is seen of a namespace from here on.
    pub(super) fn of(namespace: &str, revision: u64) -> Self {
        Self { namespace: namespace.to_owned(), revision, ..Self::default() }
    }

    /// Whether a condition holds of it.
    pub(super) fn holds(&self, condition: &Value) -> bool {
        holds(condition, &Facts { pods: &self.pods, gone: &self.gone, events: &self.events })
    }

    /// Looks at a cluster. Whether anything of a pod or an event is new.
    pub(super) fn look(&mut self, view: View<'_>) -> bool {
        self.look_at_the_runtime(view);
        let revision = view.api.store.revision();
        if revision == self.revision {
            return false;
        }
        let changes = view.api.store.since(self.revision).expect("a case changes less than the store remembers");
        let (mut news, namespace) = (false, self.namespace.clone());
        for change in changes.filter(|change| change.object["metadata"]["namespace"] == namespace.as_str()) {
            news |= self.take(change.plural, change.kind == ChangeKind::Deleted, &change.object);
        }
        self.revision = revision;
        news
    }

    /// Takes the newest version of a pod or an event, or the last one; whether it is one of these.
    pub(super) fn take(&mut self, plural: &str, gone: bool, object: &Arc<Value>) -> bool {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match plural {
            "pods" => {
                if gone {
                    self.pods.remove(&name);
                    self.gone.insert(name.clone(), Arc::clone(object));
                } else {
                    self.pods.insert(name.clone(), Arc::clone(object));
                }
                self.versions.push((name, gone, Arc::clone(object)));
            }
            "events" if gone => return false,
            "events" => drop(self.events.insert(name, Arc::clone(object))),
            _ => return false,
        }
        true
    }

    fn look_at_the_runtime(&mut self, view: View<'_>) {
        for (id, sandbox) in &view.runtime.sandboxes {
            let Some(meta) = sandbox.config.metadata.as_ref().filter(|meta| meta.namespace == self.namespace) else { continue };
            if self.made.contains_key(id) {
                continue;
            }
            let config = serde_json::to_value(&sandbox.config).unwrap_or_default();
            let made = Made::new(&meta.name, None, meta.attempt.into(), config, &sandbox.handler);
            self.deeds.entry(meta.name.clone()).or_default().push(format!("sandbox#{} start", meta.attempt));
            self.made.insert(id.clone(), made);
        }
        for (id, container) in &view.runtime.containers {
            if self.made.get(id).is_some_and(|made| made.life.ended) {
                continue;
            }
            let home = view.runtime.sandboxes.get(&container.sandbox).and_then(|home| home.config.metadata.as_ref());
            let Some(home) = home.filter(|home| home.namespace == self.namespace) else { continue };
            let made = self.made.entry(id.clone()).or_insert_with(|| {
                let config = serde_json::to_value(&container.config).unwrap_or_default();
                Made::new(&home.name, Some(container.name()), container.attempt().into(), config, "")
            });
            let word = format!("c={}#{}", container.name(), made.attempt);
            let deeds = self.deeds.entry(made.pod.clone()).or_default();
            if !made.life.started && container.started.is_some() && container.reason != "StartError" {
                made.life.started = true;
                deeds.push(format!("{word} start"));
            }
            if container.execs > 0 && !made.life.entered {
                made.life.entered = true;
                deeds.push(format!("{word} exec-added"));
            }
            if made.life.started && container.state == ContainerState::Exited {
                made.life.ended = true;
                deeds.push(format!("{word} exit {}", container.exit_code));
            }
        }
    }
}
