//! The table of fields that static pods' UIDs are made from, held against the schema that the API server publishes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::Cluster;

/// Go type, then its fields: name, name in the API (`+`: those of the same object; `?`: the pod's own there), Go type.
const TABLE: &str = include_str!("../../src/kubelet/src/static_pods/pod_types.txt");

type Fields = Vec<(&'static str, &'static str, &'static str)>;

fn table() -> BTreeMap<&'static str, Fields> {
    let mut types: BTreeMap<&str, Fields> = BTreeMap::new();
    let mut of = "";
    for line in TABLE.lines() {
        let words: Vec<&'static str> = line.split_whitespace().collect();
        match words[..] {
            [go] => of = go,
            [name, api, go] => types.entry(of).or_default().push((name, api, go)),
            _ => {}
        }
    }
    types
}

/// The names in the API of a type's fields, those of embedded types among them.
fn names(types: &BTreeMap<&'static str, Fields>, of: &str) -> BTreeSet<String> {
    let fields = types.get(of).into_iter().flatten();
    let one = |(_, api, go): &(&'static str, &'static str, &'static str)| match *api {
        "+" => names(types, go.trim_start_matches('*')),
        "?" => BTreeSet::new(),
        api => [api.to_owned()].into(),
    };
    fields.flat_map(one).collect()
}

/// What the API has and the internal types have otherwise: the host's namespaces lie in the security context there, and two fields are
/// older names of others.
fn elsewhere(of: &str) -> &'static [&'static str] {
    match of {
        "core.PodSpec" => &["hostIPC", "hostNetwork", "hostPID", "hostUsers", "serviceAccount", "shareProcessNamespace"],
        "core.PodStatus" => &["podIP"],
        _ => &[],
    }
}

pub(super) fn table_of_pod_fields_is_complete(cluster: &mut Cluster) -> anyhow::Result<()> {
    let published: Value = serde_json::from_str(&cluster.plane.raw("/openapi/v3/api/v1")?)?;
    let schemas = published["components"]["schemas"].as_object().context("schemas")?;
    let types = table();
    let (core, meta) = ("io.k8s.api.core.v1.", "io.k8s.apimachinery.pkg.apis.meta.v1.");
    let schema_of = |go: &str| {
        let (package, name) = go.split_once('.')?;
        let places = if package == "core" { vec![core] } else { vec![meta, core] };
        places.into_iter().find_map(|place| schemas.get(&format!("{place}{name}")))
    };
    let mut compared = 0;
    for go in types.keys() {
        // What is embedded in others has no schema of its own.
        let Some(schema) = schema_of(go) else { continue };
        let known: BTreeSet<String> =
            names(&types, go).into_iter().chain(elsewhere(go).iter().map(|name| (*name).to_owned())).collect();
        let properties =
            schema["properties"].as_object().map(|all| all.keys().cloned().collect::<BTreeSet<_>>()).unwrap_or_default();
        ensure!(known == properties, "{go}: the table has {known:?}, the API server {properties:?}");
        // Each type that the API has below a pod is in the table too.
        for reference in schema.to_string().split(core).skip(1) {
            let name = reference.split('"').next().unwrap_or_default();
            ensure!(types.contains_key(format!("core.{name}").as_str()), "{go}: {name} is not in the table");
        }
        compared += 1;
    }
    ensure!(compared > 90, "{compared} types were compared");
    Ok(())
}
