//! Runs one case on the bed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use model::api::resource::of_kind;
use serde_json::{Value, json};

use super::super::case::{Case, filled};
use super::super::seen::Seen;
use super::super::stage::patched;
use super::bed::Bed;
use super::ears::Listener;
use super::http::{ask, call, call_with, must};

/// How often an object is offered to an API server that does not know yet of the service account that it needs.
const OFFERS: usize = 20;
/// The pause after each.
const PAUSE: Duration = Duration::from_millis(300);
/// The grace in seconds of what a case leaves behind.
const TIDY: u32 = 1;

/// Runs a case: what was seen, and what of it could not be done or never came true.
pub(super) fn run(bed: &Bed, case: &Case) -> (Seen, Vec<String>) {
    let listener = bed.ears.begin(&case.namespace);
    let began = Instant::now();
    let mut run = Run { bed, case, listener, began, end: began + case.timeout, answers: Vec::new() };
    let mut problems = match bed.namespace(&case.namespace) {
        Ok(()) => run.play(),
        Err(error) => vec![format!("namespace: {error:#}")],
    };
    let logs = run.logs();
    let mut seen = bed.ears.end(&case.namespace).unwrap_or_default();
    seen.places = bed.places();
    // The recordings know each case by its first namespace.
    seen.places.push((case.namespace.clone(), format!("d{}", &case.namespace[1..])));
    seen.logs = logs;
    if let Err(error) = tidy(case) {
        problems.push(format!("tidying: {error:#}"));
    }
    (seen, problems)
}

struct Run<'a> {
    bed: &'a Bed,
    case: &'a Case,
    listener: Arc<Listener>,
    began: Instant,
    end: Instant,
    answers: Vec<(String, Value)>,
}

impl Run<'_> {
    fn play(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        (self.began, self.end) = (Instant::now(), Instant::now() + self.case.timeout);
        for object in &self.case.objects {
            problems.extend(create(&self.case.namespace, object).err().map(|why| format!("{why:#}")));
        }
        for (number, step) in (0..).zip(&self.case.steps) {
            match self.step(step) {
                Ok(answer) => {
                    let word = step["do"].as_str().unwrap_or_default();
                    self.answers.push((format!("step {number} {word}"), answer));
                }
                Err(why) => problems.push(format!("step {}: {why:#}", number + 1)),
            }
        }
        if !self.listener.wait(self.end, |seen| seen.holds(&self.case.until)) {
            problems.push(format!("{} never held", self.case.until));
        }
        self.settle();
        problems
    }

    /// Waits until nothing has changed for a while, but not for longer than twice that.
    fn settle(&self) {
        let last = self.end.min(Instant::now() + self.case.settle) + self.case.settle;
        loop {
            let versions = self.listener.seen().versions.len();
            let quiet = (Instant::now() + self.case.settle).min(last);
            if !self.listener.wait(quiet, |seen| seen.versions.len() != versions) || Instant::now() >= last {
                return;
            }
        }
    }

    fn sleep_until(&self, moment: Instant) {
        self.listener.wait(moment.min(self.end), |_| false);
    }

    /// Does a step; what it was answered.
    fn step(&self, step: &Value) -> anyhow::Result<Value> {
        if let Some(at) = step["at"].as_f64() {
            self.sleep_until(self.began + Duration::from_secs_f64(at));
        }
        if step.get("after").is_some() {
            let held = self.listener.wait(self.end, |seen| seen.holds(&step["after"]));
            ensure!(held, "{} never held", step["after"]);
        }
        if let Some(plus) = step["plus"].as_f64() {
            self.sleep_until(Instant::now() + Duration::from_secs_f64(plus));
        }
        let (namespace, pod) = (&self.case.namespace, step["pod"].as_str().unwrap_or("p"));
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
        match step["do"].as_str().unwrap_or_default() {
            "delete" => {
                let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
                if let Some(grace) = step["grace"].as_i64() {
                    options["gracePeriodSeconds"] = grace.into();
                }
                Ok(answered(&call("DELETE", &path, Some(&options))?))
            }
            word @ ("patch" | "status") => {
                let part = if word == "status" { "status" } else { step["subresource"].as_str().unwrap_or_default() };
                let path = if part.is_empty() { path } else { format!("{path}/{part}") };
                let kind = step["type"].as_str().unwrap_or("strategic-merge");
                let kind = format!("application/{}-patch+json", if kind == "strategic" { "strategic-merge" } else { kind });
                Ok(answered(&call_with("PATCH", &path, &kind, Some(&patched(&step["patch"])))?))
            }
            "finalizers" => {
                let none = json!({"metadata": {"finalizers": null}});
                Ok(answered(&call_with("PATCH", &path, "application/merge-patch+json", Some(&none))?))
            }
            "apply" => Ok(answered(&apply(namespace, &filled(step["object"].clone(), namespace))?)),
            "kill-sandbox" | "kill-container" => {
                let ids = self.bed.ears.ids(namespace, pod, step["container"].as_str());
                let killed = ids.iter().filter(|id| self.bed.ears.ctr(&["tasks", "kill", "-s", "SIGKILL", id]).is_some()).count();
                Ok(format!("{killed} killed").into())
            }
            "exec" => self.exec(pod, step),
            "capture" | "wait" => Ok("ok".into()),
            other => bail!("{other} is not known"),
        }
    }

    fn exec(&self, pod: &str, step: &Value) -> anyhow::Result<Value> {
        let mut args = vec!["--namespace", &self.case.namespace, "exec", pod];
        if let Some(container) = step["container"].as_str() {
            args.extend(["-c", container]);
        }
        args.push("--");
        args.extend(step["command"].as_array().into_iter().flatten().filter_map(Value::as_str));
        let output = self.bed.plane.command(&args).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(json!({"code": output.status.code(), "out": text(&output.stdout), "err": text(&output.stderr)}))
    }

    /// What containers said last, and what steps were answered.
    fn logs(&self) -> BTreeMap<String, Value> {
        let mut logs: BTreeMap<String, Value> = self.answers.iter().cloned().collect();
        let pods = self.listener.seen().pods.clone();
        for (name, pod) in &pods {
            let list = |list: &str| pod["spec"][list].as_array().cloned().unwrap_or_default();
            let containers = ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(list);
            for container in containers.take(6).filter_map(|container| container["name"].as_str().map(str::to_owned)) {
                let of = |more: &str| {
                    let path = format!(
                        "/api/v1/namespaces/{}/pods/{name}/log?container={container}&tailLines=50{more}",
                        self.case.namespace
                    );
                    ask("GET", &path, "", "").map_or(Value::Null, |(code, text)| json!({"code": code, "text": end_of(&text)}))
                };
                let kinds = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
                let mut statuses = kinds.iter().flat_map(|list| pod["status"][*list].as_array().into_iter().flatten());
                let restarted = statuses.any(|status| status["name"] == container.as_str() && status["restartCount"] != 0);
                if restarted {
                    logs.insert(format!("{name}/{container} previous"), of("&previous=true"));
                }
                logs.insert(format!("{name}/{container}"), of(""));
            }
        }
        logs
    }
}

/// As much of a log as the recordings have.
fn end_of(text: &str) -> String {
    const MOST: usize = 4000;
    text.chars().skip(text.chars().count().saturating_sub(MOST)).collect()
}

/// The path of objects of that kind.
fn collection(namespace: &str, object: &Value) -> anyhow::Result<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let resource = of_kind(&version, &kind).with_context(|| format!("{version} {kind} is not known"))?;
    let base = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let home = if resource.namespaced { format!("/namespaces/{namespace}") } else { String::new() };
    Ok(format!("{base}{home}/{}", resource.plural))
}

fn create(namespace: &str, object: &Value) -> anyhow::Result<Value> {
    let path = collection(namespace, object)?;
    for _ in 0..OFFERS {
        let answer = call("POST", &path, Some(object))?;
        // The same case was here before.
        if answer.0 == 409 && object["metadata"]["namespace"].is_null() {
            return Ok(answer.1);
        }
        if answer.0 != 403 || !answer.1["message"].as_str().unwrap_or_default().contains("serviceaccount") {
            return must(answer).with_context(|| format!("{} {}", object["kind"], object["metadata"]["name"]));
        }
        std::thread::sleep(PAUSE);
    }
    bail!("{} {}: no service account", object["kind"], object["metadata"]["name"])
}

/// Makes an object, or replaces it.
fn apply(namespace: &str, object: &Value) -> anyhow::Result<(u16, Value)> {
    let path = collection(namespace, object)?;
    match call("POST", &path, Some(object))? {
        (409, _) => call("PUT", &format!("{path}/{}", object["metadata"]["name"].as_str().unwrap_or_default()), Some(object)),
        answer => Ok(answer),
    }
}

/// An answer in the words of the recordings.
fn answered((code, object): &(u16, Value)) -> Value {
    if (200..300).contains(code) {
        (*code).into()
    } else {
        format!("{code} {}", object["message"].as_str().unwrap_or_default()).into()
    }
}

/// What is left goes with a short grace; nobody waits for it.
fn tidy(case: &Case) -> anyhow::Result<()> {
    let path = format!("/api/v1/namespaces/{}/pods", case.namespace);
    let listed = call("GET", &path, None).and_then(must)?;
    for pod in listed["items"].as_array().into_iter().flatten().filter(|pod| pod["metadata"]["finalizers"].is_array()) {
        let none = json!({"metadata": {"finalizers": null}});
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        call_with("PATCH", &format!("{path}/{name}"), "application/merge-patch+json", Some(&none))?;
    }
    call("DELETE", &format!("{path}?gracePeriodSeconds={TIDY}"), None)?;
    for object in case.objects.iter().filter(|object| object["metadata"]["namespace"].is_null()) {
        let path = collection("", object)?;
        call("DELETE", &format!("{path}/{}", object["metadata"]["name"].as_str().unwrap_or_default()), None)?;
    }
    Ok(())
}
