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
    /// The RuntimeClass handler of a sandbox.
    pub(super) handler: String,
    started: bool,
    entered: bool,
    ended: bool,
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
        let mut news = false;
        for change in changes.filter(|change| change.object["metadata"]["namespace"] == self.namespace.as_str()) {
            let name = change.object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            match change.plural {
                "pods" => {
                    let gone = change.kind == ChangeKind::Deleted;
                    if gone {
                        self.pods.remove(&name);
                        self.gone.insert(name.clone(), Arc::clone(&change.object));
                    } else {
                        self.pods.insert(name.clone(), Arc::clone(&change.object));
                    }
                    self.versions.push((name, gone, Arc::clone(&change.object)));
                }
                "events" => drop(self.events.insert(name, Arc::clone(&change.object))),
                _ => continue,
            }
            news = true;
        }
        self.revision = revision;
        news
    }

    fn look_at_the_runtime(&mut self, view: View<'_>) {
        for (id, sandbox) in &view.runtime.sandboxes {
            let Some(meta) = sandbox.config.metadata.as_ref().filter(|meta| meta.namespace == self.namespace) else { continue };
            if self.made.contains_key(id) {
                continue;
            }
            let made = Made {
                pod: meta.name.clone(),
                container: None,
                attempt: meta.attempt.into(),
                config: serde_json::to_value(&sandbox.config).unwrap_or_default(),
                handler: sandbox.handler.clone(),
                started: true,
                entered: false,
                ended: false,
            };
            self.deeds.entry(meta.name.clone()).or_default().push(format!("sandbox#{} start", meta.attempt));
            self.made.insert(id.clone(), made);
        }
        for (id, container) in &view.runtime.containers {
            if self.made.get(id).is_some_and(|made| made.ended) {
                continue;
            }
            let home = view.runtime.sandboxes.get(&container.sandbox).and_then(|home| home.config.metadata.as_ref());
            let Some(home) = home.filter(|home| home.namespace == self.namespace) else { continue };
            let made = self.made.entry(id.clone()).or_insert_with(|| Made {
                pod: home.name.clone(),
                container: Some(container.name().to_owned()),
                attempt: container.attempt().into(),
                config: serde_json::to_value(&container.config).unwrap_or_default(),
                handler: String::new(),
                started: false,
                entered: false,
                ended: false,
            });
            let word = format!("c={}#{}", container.name(), made.attempt);
            let deeds = self.deeds.entry(made.pod.clone()).or_default();
            if !made.started && container.started.is_some() && container.reason != "StartError" {
                made.started = true;
                deeds.push(format!("{word} start"));
            }
            if container.execs > 0 && !made.entered {
                made.entered = true;
                deeds.push(format!("{word} exec-added"));
            }
            if made.started && container.state == ContainerState::Exited {
                made.ended = true;
                deeds.push(format!("{word} exit {}", container.exit_code));
            }
        }
    }
}
