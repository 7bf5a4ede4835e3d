//! The faults that mutations plant: each what the core could do wrong by one wrong line.
//! Upstream: none.
//! Differs: nothing on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use kubelet::action::{Action, ApiCall, Call, CriCall, HostCall, Lane};
use kubelet::csi::CsiCall;
use kubelet::event::{ApiReply, CriReply, Event, HostReply, Manifest, Object, WatchKey};
use kubelet::failure::{Failure, FailureKind};
use kubelet::ids::{ActionId, PodUid};
use kubelet::observation::ContainerState;
use serde_json::{Value, json};

use crate::world::planted::{Asked, Planted};

/// Changes actions in place.
fn altered(mut alter: impl FnMut(&mut Call) + 'static) -> Planted {
    Planted::in_actions(move |mut action| {
        alter(&mut action.call);
        vec![Asked::Sent(action)]
    })
}

/// Answers some actions instead of doing them.
fn answered(mut answer: impl FnMut(&Action) -> Option<Event> + 'static) -> Planted {
    Planted::in_actions(move |action| {
        vec![match answer(&action) {
            Some(event) => Asked::Answered(action, event),
            None => Asked::Sent(action),
        }]
    })
}

/// Does more than it is asked for.
fn added(mut more: impl FnMut(&Action) -> Vec<Call> + 'static) -> Planted {
    let mut last = u64::MAX;
    Planted::in_actions(move |action| {
        let more = more(&action).into_iter().map(|call| {
            // Numbers that the core never comes to.
            last -= 1;
            Action { id: ActionId(last), lane: Lane::PodStatus, timeout: Some(Duration::from_secs(30)), pod: None, call }
        });
        let more: Vec<Asked> = more.map(Asked::Sent).collect();
        more.into_iter().chain([Asked::Sent(action)]).collect()
    })
}

/// Writes a pod's status once more when the lease is renewed next, as that makes of the patch before, if it does.
fn written_later(mut forge: impl FnMut(&Value) -> Option<Value> + 'static) -> Planted {
    let mut waiting: Option<Call> = None;
    added(move |action| match &action.call {
        Call::Api(ApiCall::PatchPodStatus { namespace, name, patch }) => {
            if let Some(forged) = forge(&patch["status"]) {
                let patch = json!({"metadata": patch["metadata"].clone(), "status": forged});
                let (namespace, name) = (namespace.clone(), name.clone());
                waiting = Some(Call::Api(ApiCall::PatchPodStatus { namespace, name, patch }));
            }
            vec![]
        }
        Call::Api(ApiCall::UpdateLease(_)) => waiting.take().into_iter().collect(),
        _ => vec![],
    })
}

fn done(id: ActionId) -> Event {
    Event::CriDone { id, outcome: Ok(CriReply::Done) }
}

fn fails(id: ActionId) -> Event {
    Event::ApiDone { id, outcome: Err(Failure::new(FailureKind::Unavailable, "never sent")) }
}

fn says_ready(status: &Value) -> bool {
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Whichever of the two the driver does first.
pub(super) fn volume_is_unstaged_as_it_is_published() -> Planted {
    added(|action| match &action.call {
        Call::Csi(CsiCall::Publish { endpoint, request, .. }) => {
            let (endpoint, volume) = (endpoint.clone(), request.volume_id.clone());
            vec![Call::Csi(CsiCall::Unstage { endpoint, volume, staging: String::new() })]
        }
        _ => vec![],
    })
}

pub(super) fn running_containers_look_ended() -> Planted {
    Planted::in_events(|mut event| {
        if let Event::CriDone { outcome: Ok(CriReply::Observation(seen)), .. } = &mut event {
            let running = Arc::make_mut(seen).containers.iter_mut().filter(|c| c.state == ContainerState::Running);
            running.for_each(|container| container.state = ContainerState::Exited);
        }
        Some(event)
    })
}

pub(super) fn deletion_is_confirmed_with_the_stop() -> Planted {
    let mut told: Option<(String, String, PodUid)> = None;
    added(move |action| match &action.call {
        Call::Api(ApiCall::PatchPodStatus { namespace, name, patch }) => {
            let uid = PodUid::new(patch["metadata"]["uid"].as_str().unwrap_or_default());
            told = Some((namespace.clone(), name.clone(), uid));
            vec![]
        }
        Call::Cri(CriCall::StopContainer { .. }) => {
            let gone = told.take().map(|(namespace, name, uid)| ApiCall::DeletePod { namespace, name, uid, grace_seconds: 0 });
            gone.map(Call::Api).into_iter().collect()
        }
        _ => vec![],
    })
}

pub(super) fn ended_pod_is_told_to_run() -> Planted {
    written_later(|status| (status["phase"] == "Succeeded").then(|| json!({"phase": "Running"})))
}

pub(super) fn never_is_taken_for_always() -> Planted {
    Planted::in_events(|mut event| {
        let pods = match &mut event {
            Event::WatchListed { objects, .. } => objects.iter_mut().collect(),
            Event::WatchApplied { object, .. } => vec![object],
            _ => vec![],
        };
        for object in pods {
            if let Object::Pod(pod) = object
                && let Some(spec) = &mut Arc::make_mut(pod).spec
            {
                spec.restart_policy = Some("Always".to_owned());
            }
        }
        Some(event)
    })
}

/// The same of static pods, which come from their manifests.
pub(super) fn static_pods_are_to_run_always() -> Planted {
    Planted::in_events(|mut event| {
        if let Event::HostDone { outcome: Ok(HostReply::Manifests(read)), .. } = &mut event {
            each_pod(read, |pod| pod["spec"]["restartPolicy"] = "Always".into());
        }
        Some(event)
    })
}

/// The same, but for the agent's first life.
pub(super) fn static_pods_are_to_run_always_in_the_next_life() -> Planted {
    let mut lives = 0;
    Planted::in_events(move |mut event| {
        match &mut event {
            Event::Started => lives += 1,
            Event::HostDone { outcome: Ok(HostReply::Manifests(read)), .. } if lives > 1 => {
                each_pod(read, |pod| pod["spec"]["restartPolicy"] = "Always".into());
            }
            _ => {}
        }
        Some(event)
    })
}

/// Alters the pods of manifests that are JSON.
fn each_pod(read: &mut [Manifest], alter: impl Fn(&mut Value)) {
    for contents in read.iter_mut().filter_map(|manifest| manifest.contents.as_mut().ok()) {
        if let Ok(mut pod) = serde_json::from_slice::<Value>(contents) {
            alter(&mut pod);
            *contents = pod.to_string().into_bytes();
        }
    }
}

pub(super) fn grace_is_cut_to_a_second() -> Planted {
    altered(|call| {
        if let Call::Cri(CriCall::StopContainer { grace, .. }) = call {
            *grace = Duration::from_secs(1);
        }
    })
}

pub(super) fn second_stop_has_a_second() -> Planted {
    let mut stops = 0;
    altered(move |call| {
        if let Call::Cri(CriCall::StopContainer { grace, .. }) = call {
            stops += 1;
            if stops > 1 {
                *grace = Duration::from_secs(1);
            }
        }
    })
}

pub(super) fn second_list_of_pods_is_empty() -> Planted {
    let mut lists = 0;
    Planted::in_events(move |mut event| {
        if let Event::WatchListed { key: WatchKey::Pods, objects } = &mut event {
            lists += 1;
            if lists > 1 {
                objects.clear();
            }
        }
        Some(event)
    })
}

/// As the lease is renewed after it was made.
pub(super) fn first_sandbox_is_stopped() -> Planted {
    let mut first = None;
    added(move |action| match &action.call {
        Call::Cri(CriCall::CreateContainer { sandbox, .. }) => {
            first.get_or_insert_with(|| sandbox.clone());
            vec![]
        }
        Call::Api(ApiCall::UpdateLease(_)) => {
            first.iter().map(|id| Call::Cri(CriCall::StopPodSandbox { id: id.clone() })).collect()
        }
        _ => vec![],
    })
}

pub(super) fn readiness_is_withdrawn() -> Planted {
    written_later(|status| says_ready(status).then(|| json!({"conditions": [{"type": "Ready", "status": "False"}]})))
}

pub(super) fn every_probe_passes() -> Planted {
    Planted::in_events(|mut event| {
        if let Event::CriDone { outcome: Ok(CriReply::Exec { exit_code, .. }), .. } = &mut event {
            *exit_code = 0;
        }
        Some(event)
    })
}

pub(super) fn readiness_comes_before_the_container() -> Planted {
    altered(|call| {
        if let Call::Api(ApiCall::PatchPodStatus { patch, .. }) = call {
            for status in patch["status"]["containerStatuses"].as_array_mut().into_iter().flatten() {
                status["ready"] = true.into();
            }
        }
    })
}

pub(super) fn every_other_renewal_is_an_hour_old() -> Planted {
    let mut renewals = 0;
    altered(move |call| {
        if let Call::Api(ApiCall::UpdateLease(lease)) = call
            && let Some(at) = lease.spec.as_mut().and_then(|spec| spec.renew_time.as_mut())
        {
            renewals += 1;
            if renewals % 2 == 0 {
                at.0 = at.0.saturating_sub(SignedDuration::from_hours(1)).unwrap_or(at.0);
            }
        }
    })
}

pub(super) fn directories_are_not_removed() -> Planted {
    answered(|action| match &action.call {
        Call::Host(HostCall::RemovePodDir { .. }) => Some(Event::HostDone { id: action.id, outcome: Ok(HostReply::Done) }),
        _ => None,
    })
}

pub(super) fn node_is_read_without_end() -> Planted {
    added(|action| match &action.call {
        Call::Api(ApiCall::UpdateLease(_)) => vec![Call::Api(ApiCall::GetNode); 1500],
        _ => vec![],
    })
}

pub(super) fn calls_pile_up() -> Planted {
    added(|action| match &action.call {
        Call::Api(ApiCall::UpdateLease(_)) => vec![Call::Cri(CriCall::Version); 2500],
        _ => vec![],
    })
}

pub(super) fn status_names_the_first_container_of_all() -> Planted {
    let mut first: Option<Value> = None;
    altered(move |call| {
        if let Call::Api(ApiCall::PatchPodStatus { patch, .. }) = call {
            for status in patch["status"]["containerStatuses"].as_array_mut().into_iter().flatten() {
                if status["containerID"].is_string() {
                    status["containerID"] = first.get_or_insert_with(|| status["containerID"].clone()).clone();
                }
            }
        }
    })
}

pub(super) fn foreign_secret_is_read() -> Planted {
    added(|action| match &action.call {
        Call::Api(ApiCall::UpdateLease(_)) => {
            let key = WatchKey::Secret { namespace: "default".to_owned(), name: "foreign".to_owned() };
            vec![Call::Api(ApiCall::GetObject { key, cached: false })]
        }
        _ => vec![],
    })
}

pub(super) fn condition_of_others_is_deleted() -> Planted {
    written_later(|_| Some(json!({"conditions": [{"$patch": "delete", "type": "DisruptionTarget"}]})))
}

pub(super) fn everybody_is_left_alone() -> Planted {
    altered(|call| {
        if let Call::Api(ApiCall::PatchPodStatus { patch, .. }) = call {
            patch["status"]["reason"] = "Quarantined".into();
        }
    })
}

pub(super) fn containers_are_not_started() -> Planted {
    let fails = |id| Event::CriDone { id, outcome: Err(Failure::new(FailureKind::Other, "never sent")) };
    answered(move |action| matches!(action.call, Call::Cri(CriCall::StartContainer { .. })).then(|| fails(action.id)))
}

pub(super) fn nothing_is_stopped() -> Planted {
    answered(|action| {
        let stops = matches!(
            action.call,
            Call::Cri(CriCall::StopContainer { .. } | CriCall::StopPodSandbox { .. } | CriCall::RemovePodSandbox { .. })
        );
        stops.then(|| done(action.id))
    })
}

pub(super) fn lease_is_not_renewed() -> Planted {
    answered(|action| matches!(action.call, Call::Api(ApiCall::UpdateLease(_))).then(|| fails(action.id)))
}

pub(super) fn node_status_is_not_told() -> Planted {
    answered(|action| matches!(action.call, Call::Api(ApiCall::PatchNodeStatus(_))).then(|| fails(action.id)))
}

pub(super) fn watch_of_pods_is_dead() -> Planted {
    Planted::in_events(|event| match event {
        Event::WatchApplied { key: WatchKey::Pods, .. } | Event::WatchDeleted { key: WatchKey::Pods, .. } => None,
        event => Some(event),
    })
}

pub(super) fn deletion_is_never_confirmed() -> Planted {
    answered(|action| match &action.call {
        Call::Api(ApiCall::DeletePod { .. }) => Some(Event::ApiDone { id: action.id, outcome: Ok(ApiReply::Done) }),
        _ => None,
    })
}

pub(super) fn every_sandbox_is_the_first_attempt() -> Planted {
    altered(|call| {
        if let Call::Cri(CriCall::RunPodSandbox { config, .. }) = call
            && let Some(metadata) = &mut Arc::make_mut(config).metadata
        {
            metadata.attempt = 0;
        }
    })
}

pub(super) fn status_is_told_until_ready_and_never_again() -> Planted {
    let mut was_ready = false;
    answered(move |action| match &action.call {
        Call::Api(ApiCall::PatchPodStatus { .. }) if was_ready => Some(fails(action.id)),
        Call::Api(ApiCall::PatchPodStatus { patch, .. }) => {
            was_ready = says_ready(&patch["status"]);
            None
        }
        _ => None,
    })
}

/// Hints are lost on the core: only the next listing finds what they told.
pub(super) fn hints_of_the_runtime_are_not_heeded() -> Planted {
    Planted::in_events(|event| (!matches!(event, Event::RuntimeChanged { .. })).then_some(event))
}

/// Pulls go with the credentials that were used before, whoever's they are.
pub(super) fn credentials_of_others_are_used() -> Planted {
    let mut last = None;
    altered(move |call| {
        if let Call::Cri(CriCall::PullImage { auth, .. }) = call {
            if auth.is_some() {
                last.clone_from(auth);
            } else {
                auth.clone_from(&last);
            }
        }
    })
}

pub(super) fn mirror_is_not_made_again() -> Planted {
    let mut made = BTreeSet::new();
    answered(move |action| match &action.call {
        Call::Api(ApiCall::CreatePod(pod)) => (!made.insert(pod.metadata.name.clone())).then(|| fails(action.id)),
        _ => None,
    })
}

/// Whatever stands in a file that was read once.
pub(super) fn changed_manifests_are_not_read() -> Planted {
    let mut first = BTreeMap::new();
    Planted::in_events(move |mut event| {
        if let Event::HostDone { outcome: Ok(HostReply::Manifests(read)), .. } = &mut event {
            for manifest in read {
                let contents = first.entry(manifest.path.clone()).or_insert_with(|| manifest.contents.clone());
                manifest.contents.clone_from(contents);
            }
        }
        Some(event)
    })
}

pub(super) fn static_pods_go_with_the_api_server() -> Planted {
    let mut away = false;
    Planted::in_events(move |mut event| {
        match &mut event {
            Event::ApiDone { outcome: Err(failure), .. } if failure.kind == FailureKind::Unavailable => away = true,
            Event::ApiDone { outcome: Ok(_), .. } | Event::WatchListed { .. } | Event::WatchApplied { .. } => away = false,
            Event::HostDone { outcome: Ok(HostReply::Manifests(read)), .. } if away => read.clear(),
            _ => {}
        }
        Some(event)
    })
}

/// The URL's first answer with pods of the same names counts for ever.
pub(super) fn changed_answer_of_the_url_is_not_read() -> Planted {
    let mut first = BTreeMap::new();
    Planted::in_events(move |mut event| {
        if let Event::FetchDone { outcome: Ok(body), .. } = &mut event
            && let Ok(said) = serde_json::from_slice::<Value>(body)
        {
            let one = std::slice::from_ref(&said);
            let pods = said["items"].as_array().map_or(one, Vec::as_slice);
            let names: Vec<String> = pods.iter().map(|pod| pod["metadata"]["name"].to_string()).collect();
            body.clone_from(first.entry(names).or_insert_with(|| body.clone()));
        }
        Some(event)
    })
}

/// Lets each life of the agent but the first see manifests otherwise: the pods have other UIDs then.
fn otherwise_in_each_life() -> impl FnMut(&mut Event) {
    let mut lives = 0;
    move |event| match event {
        Event::Started => lives += 1,
        Event::HostDone { outcome: Ok(HostReply::Manifests(read)), .. } if lives > 1 => {
            each_pod(read, |pod| pod["metadata"]["labels"]["life"] = lives.to_string().into());
        }
        _ => {}
    }
}

/// A static pod takes its own place in the agent's next life.
pub(super) fn static_pods_have_other_uids_in_each_life() -> Planted {
    let mut otherwise = otherwise_in_each_life();
    Planted::in_events(move |mut event| {
        otherwise(&mut event);
        Some(event)
    })
}

/// What an earlier life ran is not seen by the next, and goes on beside what that runs.
pub(super) fn pods_of_an_earlier_life_are_not_seen() -> Planted {
    let (mut earlier, mut seen) = (BTreeSet::new(), BTreeSet::new());
    Planted::in_events(move |mut event| {
        match &mut event {
            Event::Started => earlier.append(&mut seen),
            Event::CriDone { outcome: Ok(CriReply::Listing { listing, .. }), .. } => {
                listing.sandboxes.retain(|sandbox| !earlier.contains(&sandbox.pod));
                listing.containers.retain(|container| !earlier.contains(&container.pod));
                seen.extend(listing.sandboxes.iter().map(|sandbox| sandbox.pod.clone()));
            }
            Event::CriDone { outcome: Ok(CriReply::Observation(one)), .. } if earlier.contains(&one.pod) => {
                let one = Arc::make_mut(one);
                one.sandboxes.clear();
                one.containers.clear();
            }
            _ => {}
        }
        Some(event)
    })
}
