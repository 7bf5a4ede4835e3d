//! The cases: one pod or a few, what is done to them, and what is waited for; written for a lab with a real kubelet, and read here as
//! they are.

use std::time::Duration;

use serde_json::{Value, json};

use crate::source::{files_below, text_of};

/// What the capitals in a case's `image` stand for.
const IMAGES: [(&str, &str); 4] = [
    ("BUSYBOX", "docker.io/library/busybox:latest"),
    ("AGNHOST", "registry.k8s.io/e2e-test-images/agnhost:2.63.0"),
    ("NONROOT", "registry.k8s.io/e2e-test-images/nonroot:1.5"),
    ("NGINX", "registry.k8s.io/e2e-test-images/nginx:1.27-0"),
];
/// The lab's registry.
pub(super) const REGISTRY: &str = "127.0.0.1:5077";
/// Where nothing listens.
pub(super) const NOBODY: &str = "127.0.0.1:5999";
/// Kinds that have no namespace.
const CLUSTER_WIDE: [&str; 4] = ["RuntimeClass", "PriorityClass", "PersistentVolume", "Node"];

/// A case.
#[derive(Clone)]
pub(super) struct Case {
    /// Its number and its name.
    pub(super) id: String,
    /// What it is about.
    pub(super) about: String,
    /// The namespace that it has for itself.
    pub(super) namespace: String,
    /// What is made at once.
    pub(super) objects: Vec<Value>,
    /// What is done then, in order.
    pub(super) steps: Vec<Value>,
    /// What must come true in the end.
    pub(super) until: Value,
    /// For how long nothing must change after that.
    pub(super) settle: Duration,
    /// After how long it is over in any case.
    pub(super) timeout: Duration,
    /// What is compared; empty for all.
    compare: Vec<String>,
}

impl Case {
    /// Reads a case.
    fn parse(id: &str, text: &str) -> Self {
        // As the lab reads them: `no` and `n` are words, and a leading zero means octal.
        let options = serde_saphyr::options! { strict_booleans: true, legacy_octal_numbers: true };
        let case: Value = serde_saphyr::from_str_with_options(text, options).unwrap_or_else(|error| panic!("{id}: {error}"));
        let namespace = format!("d-{}", id.split('-').next().unwrap_or_default());
        let list = |key: &str| case[key].as_array().cloned().unwrap_or_default();
        let seconds = |key: &str, otherwise: f64| Duration::from_secs_f64(case[key].as_f64().unwrap_or(otherwise));
        let objects = list("objects").into_iter().map(|object| filled(object, &namespace)).collect();
        let until = if case["until"].is_null() { json!([{"phase": "Succeeded|Failed"}]) } else { case["until"].clone() };
        Self {
            id: id.to_owned(),
            about: case["about"].as_str().unwrap_or_default().to_owned(),
            objects,
            steps: list("steps"),
            until,
            settle: seconds("settle", 2.0),
            timeout: seconds("timeout", 40.0),
            compare: list("compare").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            namespace,
        }
    }

    /// The same case for another round, in a namespace of its own, whose name is as long as that of the first: `e-001` for `d-001`.
    pub(super) fn in_round(&self, round: u32) -> Self {
        let letter = char::from(b'c' + u8::try_from(round).unwrap_or_default());
        let namespace = format!("{letter}{}", &self.namespace[1..]);
        let mut objects = self.objects.clone();
        for home in objects.iter_mut().map(|object| &mut object["metadata"]["namespace"]).filter(|home| home.is_string()) {
            *home = namespace.clone().into();
        }
        Self { namespace, objects, ..self.clone() }
    }

    /// Whether that part of what was seen is compared.
    pub(super) fn compares(&self, part: &str) -> bool {
        self.compare.is_empty() || self.compare.iter().any(|compared| compared == part)
    }

    /// What was seen of the kubelet: for each part one value, or two where two runs came out otherwise.
    pub(super) fn golden(&self) -> Value {
        let path = format!("tests/corpus/golden/{}.json", self.id);
        let text = text_of(&path).unwrap_or_else(|| panic!("{path} is missing"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

/// All cases, in order.
pub(super) fn all() -> Vec<Case> {
    let paths = files_below("tests/corpus/cases").into_iter().filter(|path| path.ends_with(".yaml"));
    let read = |path: String| {
        let name = path.rsplit('/').next().and_then(|name| name.strip_suffix(".yaml")).unwrap_or_default().to_owned();
        Case::parse(&name, &text_of(&path).unwrap_or_default())
    };
    paths.map(read).collect()
}

/// The object with all that cases leave out: kind, version, namespace, node, the names of images, and pull policy `IfNotPresent`.
pub(super) fn filled(mut object: Value, namespace: &str) -> Value {
    let kind = object["kind"].as_str().unwrap_or("Pod").to_owned();
    if object["apiVersion"].is_null() {
        let version = match kind.as_str() {
            "RuntimeClass" => "node.k8s.io/v1",
            "PriorityClass" => "scheduling.k8s.io/v1",
            _ => "v1",
        };
        object["apiVersion"] = version.into();
    }
    object["kind"] = kind.clone().into();
    if !CLUSTER_WIDE.contains(&kind.as_str()) {
        object["metadata"]["namespace"] = namespace.into();
    }
    if kind == "Pod" {
        if object["metadata"]["name"].is_null() {
            object["metadata"]["name"] = "p".into();
        }
        pod(&mut object["spec"]);
    }
    for field in ["data", "stringData"] {
        for value in object[field].as_object_mut().into_iter().flat_map(serde_json::Map::values_mut) {
            if let Some(made) = value.as_str().and_then(made) {
                *value = made.into();
            }
        }
    }
    drop_null(&mut object);
    object
}

fn pod(spec: &mut Value) {
    if spec["nodeName"].is_null() {
        spec["nodeName"] = "n1".into();
    }
    for list in ["initContainers", "containers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            container["image"] = image(container["image"].as_str().unwrap_or("BUSYBOX")).into();
            match container["imagePullPolicy"].as_str() {
                Some("") => container["imagePullPolicy"] = Value::Null,
                Some(_) => {}
                None => container["imagePullPolicy"] = "IfNotPresent".into(),
            }
        }
    }
    for volume in spec["volumes"].as_array_mut().into_iter().flatten() {
        if let Some(reference) = volume["image"]["reference"].as_str() {
            volume["image"]["reference"] = image(reference).into();
        }
    }
}

/// The name of an image as runtimes know it.
pub(super) fn image(name: &str) -> String {
    match IMAGES.iter().find(|(capitals, _)| *capitals == name) {
        Some((_, image)) => (*image).to_owned(),
        None => name.replacen("REGISTRY/", &format!("{REGISTRY}/"), 1).replacen("NOBODY/", &format!("{NOBODY}/"), 1),
    }
}

/// What `MAKE WHAT ARGUMENT` in the data of a case stands for.
fn made(text: &str) -> Option<String> {
    let mut words = text.strip_prefix("MAKE ")?.split(' ');
    let (what, argument) = (words.next()?, words.next().unwrap_or_default());
    let (user, password) = argument.split_once(':').unwrap_or_default();
    Some(match what {
        "bytes" => "0123456789abcdef".chars().cycle().take(argument.parse().ok()?).collect(),
        "dockercfg" => json!({REGISTRY: {"username": user, "password": password}}).to_string(),
        "dockerconfig" => json!({"auths": {REGISTRY: {"username": user, "password": password}}}).to_string(),
        _ => format!("{what} of a server"),
    })
}

/// Indexing leaves nulls behind, which are not the same as nothing.
fn drop_null(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_null);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_null),
        _ => {}
    }
}
