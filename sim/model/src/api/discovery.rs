//! What the pretend API server says of itself: groups, resources, version, and just enough OpenAPI for kubectl to apply.
//! Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/discovery.
//! Differs: OpenAPI only says which kinds take the `fieldValidation` parameter; there are no schemas.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::resource::{RESOURCES, Resource, is_review};

/// The document at a path, if there is one.
#[must_use]
pub fn document(path: &[&str]) -> Option<Value> {
    match path {
        [] => Some(json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"]})),
        ["version"] => Some(version()),
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "10.96.0.1:443"}]})),
        ["api", "v1"] => resource_list("", "v1"),
        ["apis"] => {
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups().into_iter().map(group).collect::<Vec<_>>()}))
        }
        ["apis", name] => groups().get(name).map(|name| {
            let mut group = group(name);
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            group
        }),
        ["apis", group, version] => resource_list(group, version),
        ["openapi", "v3"] => Some(openapi_index()),
        ["openapi", "v3", "api", "v1"] => Some(openapi("", "v1")),
        ["openapi", "v3", "apis", group, version] => Some(openapi(group, version)),
        _ => None,
    }
}

fn version() -> Value {
    json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0+simulated", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64"})
}

fn groups() -> BTreeSet<&'static str> {
    RESOURCES.iter().map(|r| r.group).filter(|g| !g.is_empty()).collect()
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn resource_list(group: &str, version: &str) -> Option<Value> {
    let of_group: Vec<&Resource> = RESOURCES.iter().filter(|r| r.group == group && r.version == version).collect();
    let first = of_group.first()?;
    let mut list = Vec::new();
    for resource in &of_group {
        let verbs = match resource {
            r if is_review(r) => json!(["create"]),
            _ => json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]),
        };
        let mut entry = json!({"name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": verbs});
        if !resource.short.is_empty() {
            entry["shortNames"] = json!(resource.short);
        }
        if matches!(resource.plural, "pods" | "services" | "deployments" | "replicasets" | "daemonsets") {
            entry["categories"] = json!(["all"]);
        }
        list.push(entry);
        for (name, kind) in resource.subresources {
            let verbs = match *name {
                "binding" | "eviction" | "token" => json!(["create"]),
                "exec" | "attach" | "portforward" | "proxy" => json!(["create", "get"]),
                "log" => json!(["get"]),
                _ => json!(["get", "patch", "update"]),
            };
            let mut entry = json!({"name": format!("{}/{name}", resource.plural), "singularName": "",
                "namespaced": resource.namespaced, "kind": kind, "verbs": verbs});
            let of = match *kind {
                "Scale" => Some(("autoscaling", "v1")),
                "Eviction" => Some(("policy", "v1")),
                "TokenRequest" => Some(("authentication.k8s.io", "v1")),
                _ => None,
            };
            if let Some((group, version)) = of {
                entry["group"] = group.into();
                entry["version"] = version.into();
            }
            list.push(entry);
        }
    }
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": first.api_version(), "resources": list}))
}

fn openapi_index() -> Value {
    let mut paths = Map::new();
    let mut add = |path: String| {
        let url = format!("/openapi/v3/{path}");
        paths.insert(path, json!({"serverRelativeURL": url}));
    };
    add("api/v1".to_owned());
    groups().into_iter().for_each(|group| add(format!("apis/{group}/v1")));
    json!({ "paths": paths })
}

fn openapi(group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    for resource in RESOURCES.iter().filter(|r| r.group == group && r.version == version) {
        let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let place = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
        let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation"]
            .iter()
            .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
            .collect();
        let operation = json!({"parameters": parameters, "responses": {"200": {"description": "OK"}},
            "x-kubernetes-group-version-kind": {"group": group, "kind": resource.kind, "version": version}});
        paths.insert(format!("{root}{place}/{}/{{name}}", resource.plural), json!({ "patch": operation }));
    }
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.0"}, "paths": paths, "components": {"schemas": {}}})
}
