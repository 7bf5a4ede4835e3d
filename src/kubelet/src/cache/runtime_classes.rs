//! Decides which handler of the runtime a pod's RuntimeClass means.
//! Upstream: pkg/kubelet/runtimeclass/runtimeclass_manager.go.
//! Differs: classes are watched from the first pod on that names one; until they were listed, what needs them waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;

use crate::action::{ApiCall, Call, Lane};
use crate::event::WatchKey;
use crate::out::Out;

/// The RuntimeClasses, by name, with their handlers.
#[derive(Debug, Default)]
pub struct RuntimeClasses {
    handlers: BTreeMap<String, String>,
    watched: bool,
    synced: bool,
    /// Nobody tells of classes: every pod runs with the default (upstream has no manager then).
    standalone: bool,
}

impl RuntimeClasses {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(standalone: bool) -> Self {
        Self { standalone, ..Self::default() }
    }

    /// The pod needs to know what its class means, if it names one: also one whose sandbox an earlier life made.
    pub fn want(&mut self, pod: &Pod, out: &mut Out<'_>) {
        if !self.standalone && !class_of(pod).is_empty() && !std::mem::replace(&mut self.watched, true) {
            out.post(Lane::Objects, None, Call::Api(ApiCall::Watch(WatchKey::RuntimeClasses)));
        }
    }

    /// The handler of the pod's class, empty for the default.
    ///
    /// # Errors
    /// There is no such class; `None` while it is not known whether there is: the pod is woken when it is.
    pub fn handler(&self, pod: &Pod) -> Result<String, Option<String>> {
        let name = class_of(pod);
        if self.standalone || name.is_empty() {
            return Ok(String::new());
        }
        if !self.synced {
            return Err(None);
        }
        let found = self.handlers.get(name).cloned();
        found.ok_or_else(|| Some(format!("runtimeclass.node.k8s.io \"{name}\" not found")))
    }

    /// The same, as far as it is known now; `None` for every pod where nobody tells of classes (runtimeClassSupportsRecursiveReadOnlyMounts).
    #[must_use]
    pub fn known_handler(&self, pod: &Pod) -> Option<&str> {
        let name = class_of(pod);
        if self.standalone {
            return None;
        }
        if name.is_empty() { Some("") } else { self.handlers.get(name).map(String::as_str) }
    }

    /// Whether it is known what the pod's class means, or that there is none of that name.
    #[must_use]
    pub fn knows(&self, pod: &Pod) -> bool {
        self.standalone || self.synced || class_of(pod).is_empty()
    }

    /// The watch delivered all classes; of those that cannot be read what was known stands.
    pub fn listed(&mut self, classes: impl Iterator<Item = Arc<RuntimeClass>>, unreadable: &BTreeSet<String>) {
        self.handlers.retain(|name, _| unreadable.contains(name));
        classes.for_each(|class| self.applied(&class));
        self.synced = true;
    }

    /// A class as it is now.
    pub fn applied(&mut self, class: &RuntimeClass) {
        self.handlers.insert(class.metadata.name.clone().unwrap_or_default(), class.handler.clone());
    }

    /// The class of that name went away.
    pub fn gone(&mut self, name: &str) {
        self.handlers.remove(name);
    }
}

fn class_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::out::Ledger;

    // POD-152: runtimeclass_manager.go (LookupRuntimeHandler) and its test: no class and an empty one mean the default.
    #[test]
    fn class_is_looked_up_once_classes_are_known() {
        let pod = |name: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"spec": {"runtimeClassName": name, "containers": []}})).unwrap()
        };
        let class = |name: &str, handler: &str| -> Arc<RuntimeClass> {
            Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "handler": handler})).unwrap())
        };
        let mut classes = RuntimeClasses::default();
        let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
        let mut out = Out::new(&mut ledger, &mut actions, &mut recorded);
        assert_eq!(classes.handler(&pod(json!(null))), Ok(String::new()));
        assert_eq!(classes.handler(&pod(json!(""))), Ok(String::new()));
        classes.want(&pod(json!("")), &mut out);
        for _ in 0..2 {
            classes.want(&pod(json!("kata")), &mut out);
            assert_eq!(classes.handler(&pod(json!("kata"))), Err(None));
        }
        assert!(classes.knows(&pod(json!(null))) && !classes.knows(&pod(json!("kata"))));
        classes.listed([class("kata", "kata-qemu")].into_iter(), &BTreeSet::new());
        assert_eq!(classes.handler(&pod(json!("kata"))), Ok("kata-qemu".to_owned()));
        let known = |name: serde_json::Value| classes.known_handler(&pod(name)).map(str::to_owned);
        assert_eq!(
            [json!(null), json!("kata"), json!("phantom")].map(known),
            [Some(String::new()), Some("kata-qemu".to_owned()), None]
        );
        let missing = Err(Some("runtimeclass.node.k8s.io \"phantom\" not found".to_owned()));
        assert_eq!(classes.handler(&pod(json!("phantom"))), missing);
        classes.applied(&class("phantom", "p"));
        assert_eq!(classes.handler(&pod(json!("phantom"))), Ok("p".to_owned()));
        classes.listed([].into_iter(), &BTreeSet::from(["kata".to_owned()]));
        assert_eq!(classes.handler(&pod(json!("kata"))), Ok("kata-qemu".to_owned()), "it cannot be read");
        assert_eq!(classes.handler(&pod(json!("phantom"))), missing);
        classes.gone("kata");
        assert!(classes.handler(&pod(json!("kata"))).is_err());
        assert!(classes.knows(&pod(json!("kata"))), "that there is none is known, too");
        assert_eq!(actions.len(), 1, "they are watched once");
    }

    // NODE-002: kubelet.go makes no manager without a client, and createPodSandbox then asks none.
    #[test]
    fn standalone_agent_waits_for_no_class() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"runtimeClassName": "kata", "containers": []}})).unwrap();
        let mut classes = RuntimeClasses::new(true);
        let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
        classes.want(&pod, &mut Out::new(&mut ledger, &mut actions, &mut recorded));
        assert!(actions.is_empty());
        assert_eq!(classes.handler(&pod), Ok(String::new()));
        assert_eq!((classes.knows(&pod), classes.known_handler(&pod)), (true, None));
    }
}
