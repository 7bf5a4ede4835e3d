//! Decides which services a pod's environment tells of: those with a cluster IP.
//! Upstream: pkg/kubelet/kubelet.go (serviceLister), pkg/kubelet/kubelet_pods.go (getServiceEnvVarMap).
//! Differs: nothing on purpose.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;

use crate::event::Unreadable;

/// The services with a cluster IP.
#[derive(Debug, Default)]
pub struct ServiceCache {
    namespaces: BTreeMap<String, BTreeMap<String, Arc<Service>>>,
    synced: bool,
}

impl ServiceCache {
    /// Whether services were listed once: no environment may be made before, static pods aside (ENV-002).
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// The services of a namespace, by name.
    pub fn in_namespace<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a Arc<Service>> + use<'a> {
        self.namespaces.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    /// One service.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Service>> {
        self.namespaces.get(namespace)?.get(name)
    }

    /// The services that the environment of a container in that namespace tells of (ENV-010): `default/kubernetes` always, with links
    /// those of the namespace besides, of which one that is called `kubernetes` takes its place.
    pub fn of_environment(&self, namespace: &str, links: bool) -> Vec<Arc<Service>> {
        let own = links.then(|| self.in_namespace(namespace));
        let hidden = links && self.get(namespace, "kubernetes").is_some();
        let master = self.get("default", "kubernetes").filter(|_| !hidden);
        master.into_iter().chain(own.into_iter().flatten()).cloned().collect()
    }

    /// The watch delivered all services. True for the first time: pods may have waited for it.
    pub fn listed(&mut self, services: Vec<Arc<Service>>) -> bool {
        self.listed_beside(services, &[])
    }

    /// The same, and there are others, which cannot be read: what was known of them stands, and nobody waits for them.
    pub fn listed_beside(&mut self, services: Vec<Arc<Service>>, others: &[&Unreadable]) -> bool {
        let before = std::mem::take(&mut self.namespaces);
        for other in others {
            if let Some(known) = before.get(&other.namespace).and_then(|services| services.get(&other.name)) {
                self.applied(Arc::clone(known));
            }
        }
        for service in services {
            self.applied(service);
        }
        !std::mem::replace(&mut self.synced, true)
    }

    /// A service appeared or changed; one that lost its cluster IP is forgotten.
    pub fn applied(&mut self, service: Arc<Service>) {
        if has_cluster_ip(&service) {
            let (namespace, name) = name_of(&service);
            self.namespaces.entry(namespace.to_owned()).or_default().insert(name.to_owned(), Arc::clone(&service));
        } else {
            self.deleted(&service);
        }
    }

    /// A service went away.
    pub fn deleted(&mut self, service: &Service) {
        let (namespace, name) = name_of(service);
        self.gone(namespace, name);
    }

    /// The service of that name went away.
    pub fn gone(&mut self, namespace: &str, name: &str) {
        if let Some(services) = self.namespaces.get_mut(namespace) {
            services.remove(name);
            if services.is_empty() {
                self.namespaces.remove(namespace);
            }
        }
    }
}

/// ENV-010; upstream: IsServiceIPSet.
fn has_cluster_ip(service: &Service) -> bool {
    let ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    ip.is_some_and(|ip| !ip.is_empty() && ip != "None")
}

fn name_of(service: &Service) -> (&str, &str) {
    (service.metadata.namespace.as_deref().unwrap_or_default(), service.metadata.name.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(namespace: &str, name: &str, ip: &str) -> Arc<Service> {
        let service = json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"clusterIP": ip}});
        Arc::new(serde_json::from_value(service).unwrap())
    }

    fn names(cache: &ServiceCache, namespace: &str) -> Vec<String> {
        cache.in_namespace(namespace).filter_map(|s| s.metadata.name.clone()).collect()
    }

    // ENV-002: only the first list is news to waiting pods, and an empty one counts.
    #[test]
    fn environments_wait_for_the_first_list() {
        let mut cache = ServiceCache::default();
        assert!(!cache.is_synced());
        assert!(cache.listed(vec![]));
        assert!(cache.is_synced());
        assert!(!cache.listed(vec![service("default", "kubernetes", "10.0.0.1")]));
    }

    // S3: nobody waits for a service that cannot be read.
    #[test]
    fn services_that_cannot_be_read_are_as_they_were() {
        let mut cache = ServiceCache::default();
        cache.listed(vec![service("a", "web", "10.0.0.2"), service("a", "db", "10.0.0.3")]);
        let unknown = |name: &str| Unreadable { namespace: "a".into(), name: name.into(), ..Unreadable::default() };
        cache.listed_beside(vec![service("a", "new", "10.0.0.4")], &[&unknown("web"), &unknown("other")]);
        assert_eq!(names(&cache, "a"), ["new", "web"]);
        let mut cache = ServiceCache::default();
        assert!(cache.listed_beside(vec![], &[&unknown("web")]) && cache.is_synced());
    }

    // ENV-010
    #[test]
    fn headless_services_are_left_out() {
        let mut cache = ServiceCache::default();
        let (web, db) = (service("a", "web", "10.0.0.2"), service("b", "db", "10.0.0.3"));
        cache.listed(vec![web, service("a", "headless", "None"), service("a", "unset", ""), db]);
        assert_eq!(names(&cache, "a"), ["web"]);
        assert_eq!(names(&cache, "b"), ["db"]);
        assert!(cache.get("default", "kubernetes").is_none());
    }

    // ENV-010, as a kubelet 1.36.2 was recorded: of two services with one name the namespace's own counts, and nothing of the other.
    #[test]
    fn service_named_kubernetes_takes_the_place_of_the_api_servers() {
        let mut cache = ServiceCache::default();
        let master = service("default", "kubernetes", "10.0.0.1");
        cache.listed(vec![master, service("a", "kubernetes", "10.0.0.2"), service("b", "web", "10.0.0.3")]);
        let ips = |namespace: &str, links: bool| -> Vec<String> {
            let services = cache.of_environment(namespace, links);
            services.iter().filter_map(|service| service.spec.as_ref()?.cluster_ip.clone()).collect()
        };
        assert_eq!((ips("a", true), ips("a", false)), (vec!["10.0.0.2".to_owned()], vec!["10.0.0.1".to_owned()]));
        assert_eq!((ips("b", true).len(), ips("b", false)), (2, vec!["10.0.0.1".to_owned()]));
        assert_eq!((ips("default", true), ips("default", false).len()), (vec!["10.0.0.1".to_owned()], 1));
    }

    #[test]
    fn list_replaces_and_changes_apply() {
        let mut cache = ServiceCache::default();
        cache.listed(vec![service("a", "old", "10.0.0.2")]);
        cache.listed(vec![service("a", "new", "10.0.0.3"), service("a", "other", "10.0.0.4")]);
        assert_eq!(names(&cache, "a"), ["new", "other"]);
        cache.applied(service("a", "other", "None"));
        cache.deleted(&service("a", "new", "10.0.0.3"));
        assert_eq!(names(&cache, "a"), [""; 0]);
    }
}
