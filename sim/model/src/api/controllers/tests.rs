use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::ApiModel;
use super::super::resource::named;
use super::super::write::DeleteOptions;
use super::{Controllers, all, being_deleted, pods, text};

struct Cluster {
    model: ApiModel,
    controllers: Controllers,
    time: i64,
}

impl Cluster {
    fn with_nodes(nodes: &[&str]) -> Self {
        let mut model = ApiModel::new(Timestamp::from_second(1_790_000_000).unwrap(), 7);
        for node in nodes {
            let status = json!({"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}});
            let node = json!({"metadata": {"name": node, "labels": {"kubernetes.io/hostname": node}}, "status": status});
            model.create(Timestamp::from_second(1_790_000_000).unwrap(), named("nodes"), "", node).unwrap();
        }
        let mut cluster = Self { model, controllers: Controllers::default(), time: 0 };
        cluster.run();
        cluster
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + self.time).unwrap()
    }

    fn run(&mut self) {
        self.time += 1;
        let now = self.now();
        self.controllers.run(&mut self.model, now);
    }

    fn create(&mut self, plural: &str, object: Value) {
        self.model.create(self.now(), named(plural), "default", object).unwrap();
        self.run();
    }

    fn change(&mut self, plural: &'static str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut object = (*self.model.get(named(plural), "default", name).unwrap()).clone();
        change(&mut object);
        self.model.update(self.now(), named(plural), "default", name, "", object).unwrap();
        self.run();
    }

    /// Plays the nodes' part: pods become ready, and those that are being deleted go.
    fn nodes_act(&mut self) {
        let now = self.now();
        for pod in all(&self.model, "pods") {
            let (namespace, name) = (text(&pod, "namespace"), text(&pod, "name"));
            if being_deleted(&pod) {
                let options = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
                self.model.delete(now, named("pods"), namespace, name, &options).unwrap();
            } else if pod["spec"]["nodeName"].is_string() && !pods::is_ready(&pod) {
                let mut ready = (*pod).clone();
                ready["status"]["phase"] = "Running".into();
                ready["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
                self.model.update(now, named("pods"), namespace, name, "status", ready).unwrap();
            }
        }
        self.run();
    }

    fn active(&self) -> Vec<Value> {
        all(&self.model, "pods").iter().filter(|p| pods::is_active(p)).map(|p| (**p).clone()).collect()
    }

    fn images(&self) -> Vec<String> {
        self.active().iter().map(|p| p["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()).collect()
    }
}

fn workload(replicas: i64, image: &str) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}})
}

#[test]
fn a_deployment_becomes_ready_pods_spread_over_nodes() {
    let mut cluster = Cluster::with_nodes(&["n1", "n2"]);
    cluster.create("deployments", workload(4, "a:1"));
    cluster.nodes_act();
    let on = |node: &str| cluster.active().iter().filter(|p| p["spec"]["nodeName"] == node).count();
    assert_eq!((on("n1"), on("n2")), (2, 2));
    let deployment = cluster.model.get(named("deployments"), "default", "web").unwrap();
    assert_eq!(deployment["status"]["availableReplicas"], 4);
    assert_eq!(deployment["status"]["observedGeneration"], deployment["metadata"]["generation"]);
    assert_eq!(deployment["status"]["conditions"][1]["reason"], "NewReplicaSetAvailable");
}

#[test]
fn a_roll_out_never_has_too_few_available_nor_too_many_pods() {
    let mut cluster = Cluster::with_nodes(&["n1", "n2"]);
    cluster.create("deployments", workload(4, "a:1"));
    cluster.nodes_act();
    cluster.change("deployments", "web", |d| d["spec"]["template"]["spec"]["containers"][0]["image"] = "a:2".into());
    for _ in 0..20 {
        let ready = cluster.active().iter().filter(|p| pods::is_ready(p)).count();
        assert!(ready >= 3, "25% of 4 may be unavailable, {ready} are ready");
        assert!(cluster.active().len() <= 5, "25% of 4 may be too many");
        cluster.nodes_act();
    }
    assert_eq!(cluster.images(), ["a:2"; 4]);
    let sets = all(&cluster.model, "replicasets");
    assert_eq!(sets.len(), 2, "the old one stays for roll-back");
    assert_eq!(
        cluster.model.get(named("deployments"), "default", "web").unwrap()["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "2"
    );
}

#[test]
fn a_recreate_waits_until_the_old_pods_are_gone() {
    let mut cluster = Cluster::with_nodes(&["n1"]);
    let mut recreate = workload(2, "a:1");
    recreate["spec"]["strategy"] = json!({"type": "Recreate"});
    cluster.create("deployments", recreate);
    cluster.nodes_act();
    cluster.change("deployments", "web", |d| d["spec"]["template"]["spec"]["containers"][0]["image"] = "a:2".into());
    assert!(cluster.active().is_empty());
    cluster.nodes_act();
    assert_eq!(cluster.images(), ["a:2"; 2]);
}

#[test]
fn scaling_down_takes_pods_that_are_not_ready_first() {
    let mut cluster = Cluster::with_nodes(&["n1"]);
    cluster.create("deployments", workload(2, "a:1"));
    cluster.nodes_act();
    let ready: Vec<String> = cluster.active().iter().map(|p| text(p, "name").to_owned()).collect();
    cluster.change("deployments", "web", |d| d["spec"]["replicas"] = 4.into());
    assert_eq!(cluster.active().len(), 4);
    cluster.change("deployments", "web", |d| d["spec"]["replicas"] = 2.into());
    let left: Vec<String> = cluster.active().iter().map(|p| text(p, "name").to_owned()).collect();
    assert_eq!(left, ready);
}

#[test]
fn a_deleted_pod_is_replaced_and_a_deleted_deployment_takes_all_with_it() {
    let mut cluster = Cluster::with_nodes(&["n1"]);
    cluster.create("deployments", workload(1, "a:1"));
    cluster.nodes_act();
    let name = text(&cluster.active()[0], "name").to_owned();
    cluster.model.delete(cluster.now(), named("pods"), "default", &name, &DeleteOptions::default()).unwrap();
    cluster.run();
    assert_eq!(cluster.active().len(), 1);
    assert_ne!(text(&cluster.active()[0], "name"), name);
    cluster.model.delete(cluster.now(), named("deployments"), "default", "web", &DeleteOptions::default()).unwrap();
    cluster.run();
    cluster.nodes_act();
    assert!(all(&cluster.model, "pods").is_empty() && all(&cluster.model, "replicasets").is_empty());
}

#[test]
fn a_foreground_deletion_waits_for_the_pods_and_an_orphaning_one_leaves_them() {
    let mut cluster = Cluster::with_nodes(&["n1"]);
    for (propagation, remain) in [("Foreground", 0), ("Orphan", 1)] {
        cluster.create("replicasets", workload(1, "a:1"));
        cluster.nodes_act();
        let options = DeleteOptions { propagation: Some(propagation.to_owned()), ..DeleteOptions::default() };
        cluster.model.delete(cluster.now(), named("replicasets"), "default", "web", &options).unwrap();
        cluster.run();
        assert_eq!(all(&cluster.model, "replicasets").is_empty(), propagation == "Orphan");
        cluster.nodes_act();
        assert!(all(&cluster.model, "replicasets").is_empty());
        assert_eq!(all(&cluster.model, "pods").len(), remain);
    }
}

#[test]
fn a_daemon_runs_on_every_node_and_is_updated_one_node_at_a_time() {
    let mut cluster = Cluster::with_nodes(&["n1", "n2", "n3"]);
    let mut daemon = workload(0, "a:1");
    daemon["spec"].as_object_mut().unwrap().remove("replicas");
    cluster.create("daemonsets", daemon);
    cluster.nodes_act();
    assert_eq!(cluster.active().len(), 3);
    cluster.change("daemonsets", "web", |d| d["spec"]["template"]["spec"]["containers"][0]["image"] = "a:2".into());
    for _ in 0..12 {
        assert!(cluster.active().iter().filter(|p| pods::is_ready(p)).count() >= 2);
        cluster.nodes_act();
    }
    assert_eq!(cluster.images(), ["a:2"; 3]);
    let status = cluster.model.get(named("daemonsets"), "default", "web").unwrap()["status"].clone();
    assert_eq!((&status["numberReady"], &status["updatedNumberScheduled"]), (&json!(3), &json!(3)));
}

#[test]
fn a_pod_that_fits_no_node_waits_and_says_why() {
    let mut cluster = Cluster::with_nodes(&["n1"]);
    let big = json!({"metadata": {"name": "big"}, "spec": {"containers": [{"name": "c", "image": "i",
        "resources": {"requests": {"cpu": "3"}}}]}});
    cluster.create("pods", big);
    let pod = cluster.model.get(named("pods"), "default", "big").unwrap();
    let condition = &pod["status"]["conditions"][0];
    assert_eq!(condition["reason"], "Unschedulable");
    assert!(condition["message"].as_str().unwrap().starts_with("0/1 nodes are available: 1 Insufficient cpu."));
}

#[test]
fn a_namespace_goes_when_all_in_it_is_gone() {
    let mut cluster = Cluster::with_nodes(&["n1"]);
    cluster.model.ensure_namespace(cluster.now(), "team");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster.model.create(cluster.now(), named("pods"), "team", pod).unwrap();
    cluster.run();
    cluster.nodes_act();
    cluster.model.delete(cluster.now(), named("namespaces"), "", "team", &DeleteOptions::default()).unwrap();
    cluster.run();
    assert_eq!(cluster.model.get(named("namespaces"), "", "team").unwrap()["status"]["phase"], "Terminating");
    cluster.nodes_act();
    assert!(cluster.model.get(named("namespaces"), "", "team").is_err());
}

#[test]
fn what_a_node_owns_goes_with_it() {
    let mut cluster = Cluster::with_nodes(&["n1"]);
    let node = cluster.model.get(named("nodes"), "", "n1").unwrap();
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": node["metadata"]["uid"]}]);
    let lease = json!({"metadata": {"name": "n1", "ownerReferences": owner}, "spec": {}});
    cluster.model.create(cluster.now(), named("leases"), "kube-node-lease", lease).unwrap();
    cluster.model.delete(cluster.now(), named("nodes"), "", "n1", &DeleteOptions::default()).unwrap();
    cluster.run();
    assert!(cluster.model.get(named("leases"), "kube-node-lease", "n1").is_err());
}
