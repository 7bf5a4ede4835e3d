//! Decides what volume a pod's claim stands for: the claim is read, then the volume that it is bound to, and both must say so.
//! Upstream: pkg/kubelet/volumemanager/populator/desired_state_of_world_populator.go (createVolumeSpec, getPVCExtractPV, getPVSpec).
//! Differs: read until it is bound, once in a pod's life on a node: a bound claim is never bound otherwise. A failed read is repeated after
//! the wait of a volume operation.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};

use crate::action::{ApiCall, Call, Lane};
use crate::event::ApiReply;
use crate::failure::Failure;
use crate::ids::{ActionId, PodUid};
use crate::operation_backoff::OperationBackoff;
use crate::out::{Out, Owner};
use crate::time::{Mono, Now, earliest};

/// How long the API server may take for one object.
const TIMEOUT: Duration = Duration::from_secs(10);
const PROTECTION: &str = "kubernetes.io/pvc-protection";

/// Which claim a pod's volume names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClaimName {
    pub(super) name: String,
    /// Whether the claim was made for the pod (VOL-009).
    pub(super) ephemeral: bool,
}

/// What became of a claim.
#[derive(Debug)]
pub(super) enum Bound<'a> {
    /// It is being read; the pod is woken.
    Pending,
    /// In upstream's words (VOL-007). It is read again by itself.
    Failed(&'a str),
    /// The volume.
    To(&'a PersistentVolume),
}

#[derive(Debug, Default)]
enum State {
    #[default]
    New,
    Reading(ActionId),
    ReadingVolume(ActionId, PersistentVolumeClaim),
    Bound(Box<PersistentVolume>),
}

/// The claim of one volume of one pod.
#[derive(Debug, Default)]
pub(super) struct Claim {
    state: State,
    /// Why the last try failed.
    failed: Option<String>,
    backoff: OperationBackoff,
    /// How often it was refused because the API server's authorizer knew of no pod here that uses it, and when it is asked again.
    unrelated: u32,
    again: Option<Mono>,
}

/// How often such a refusal says nothing yet: the authorizer hears of a new pod some milliseconds after the node. In all a second and a
/// half.
const UNRELATED_TIMES: u32 = 5;
const UNRELATED_FIRST: Duration = Duration::from_millis(50);

impl Claim {
    /// Level-triggered: call it at each sync of the pod.
    pub(super) fn resolve(
        &mut self,
        now: Now,
        pod: &Pod,
        uid: &PodUid,
        volume: &str,
        claim: &ClaimName,
        out: &mut Out<'_>,
    ) -> Bound<'_> {
        let waits = self.backoff.until(now).is_some() || self.again.is_some_and(|at| at > now.mono);
        if matches!(self.state, State::New) && !waits {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            let call = ApiCall::GetPersistentVolumeClaim { namespace, name: claim.name.clone() };
            self.state = State::Reading(ask(uid, volume, call, out));
        }
        match (&self.state, &self.failed) {
            (State::Bound(volume), _) => Bound::To(volume),
            (_, Some(failed)) => Bound::Failed(failed),
            (_, None) => Bound::Pending,
        }
    }

    /// A read ended. True if it was one of this claim's.
    pub(super) fn done(
        &mut self,
        now: Now,
        (pod, uid, volume, claim): (&Pod, &PodUid, &str, &ClaimName),
        id: ActionId,
        outcome: &Result<ApiReply, Failure>,
        out: &mut Out<'_>,
    ) -> bool {
        let is_ours = matches!(&self.state, State::Reading(action) | State::ReadingVolume(action, _) if *action == id);
        if !is_ours {
            return false;
        }
        if outcome.as_ref().is_err_and(Failure::is_unrelated) && self.unrelated < UNRELATED_TIMES {
            self.state = State::New;
            self.again = Some(now.mono + UNRELATED_FIRST * 2u32.pow(self.unrelated));
            self.unrelated += 1;
            return true;
        }
        let next = match (std::mem::take(&mut self.state), outcome) {
            (State::Reading(_), Ok(ApiReply::Claim(found))) => check_claim(pod, claim, found).map(|name| {
                let call = ApiCall::GetPersistentVolume { name };
                State::ReadingVolume(ask(uid, volume, call, out), (**found).clone())
            }),
            (State::ReadingVolume(_, of), Ok(ApiReply::PersistentVolume(found))) => {
                check_volume(&of, found).map(|()| State::Bound(found.clone()))
            }
            (State::ReadingVolume(_, of), Err(failure)) => {
                let name = of.spec.and_then(|spec| spec.volume_name).unwrap_or_default();
                Err(format!("failed to fetch PV {name} from API server: {failure}"))
            }
            (_, Err(failure)) => Err(format!("failed to fetch PVC from API server: {failure}")),
            _ => Err("failed to fetch PVC from API server: it answered something else".to_owned()),
        };
        match next {
            Ok(state) => {
                if matches!(state, State::Bound(_)) {
                    self.failed = None;
                }
                self.state = state;
            }
            Err(cause) => {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                let not_owner = cause.ends_with("(pod is not owner)");
                self.failed =
                    Some(if not_owner { cause } else { format!("error processing PVC {namespace}/{}: {cause}", claim.name) });
                self.backoff.failed(now);
            }
        }
        true
    }

    /// When it is read again.
    pub(super) fn retry_at(&self, now: Now) -> Option<Mono> {
        let again = self.again.filter(|at| *at > now.mono);
        earliest([self.backoff.until(now), again]).filter(|_| matches!(self.state, State::New))
    }
}

fn ask(uid: &PodUid, volume: &str, call: ApiCall, out: &mut Out<'_>) -> ActionId {
    out.issue(Owner::Claim(uid.clone(), volume.to_owned()), Lane::Objects, TIMEOUT, Call::Api(call))
}

/// VOL-007, VOL-009: the name of the volume that the claim is bound to.
fn check_claim(pod: &Pod, name: &ClaimName, claim: &PersistentVolumeClaim) -> Result<String, String> {
    let protected = claim.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == PROTECTION);
    if claim.metadata.deletion_timestamp.is_some() && !protected {
        return Err("PVC is being deleted".to_owned());
    }
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
        return Err("PVC is not bound".to_owned());
    }
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
    let volume = volume.ok_or_else(|| "PVC has empty pvc.Spec.VolumeName".to_owned())?;
    let mut owners = claim.metadata.owner_references.iter().flatten();
    let is_controller = owners.any(|owner| owner.controller == Some(true) && Some(&owner.uid) == pod.metadata.uid.as_ref());
    if name.ephemeral && !is_controller {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
        return Err(format!("PVC {namespace}/{} was not created for pod {namespace}/{pod_name} (pod is not owner)", name.name));
    }
    Ok(volume)
}

/// VOL-007
fn check_volume(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<(), String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let Some(of) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return Err(format!(
            "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ));
    };
    let (has, wanted) = (of.uid.as_deref().unwrap_or_default(), claim.metadata.uid.as_deref().unwrap_or_default());
    if has != wanted {
        return Err(format!("found PV object {name} but its pv.Spec.ClaimRef.UID {has} does not point to claim.UID {wanted}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(with: Value) -> PersistentVolumeClaim {
        let mut claim = json!({"metadata": {"name": "data", "namespace": "ns", "uid": "c"}, "spec": {"volumeName": "pv-1"},
            "status": {"phase": "Bound"}});
        for (part, value) in with.as_object().unwrap() {
            for (key, value) in value.as_object().unwrap() {
                claim[part][key] = value.clone();
            }
        }
        serde_json::from_value(claim).unwrap()
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}})).unwrap()
    }

    fn checked(ephemeral: bool, with: Value) -> Result<String, String> {
        check_claim(&pod(), &ClaimName { name: "data".to_owned(), ephemeral }, &claim(with))
    }

    // VOL-007
    #[test]
    fn claim_must_be_bound_and_stay() {
        assert_eq!(checked(false, json!({})), Ok("pv-1".to_owned()));
        assert_eq!(checked(false, json!({"status": {"phase": "Pending"}})).unwrap_err(), "PVC is not bound");
        assert_eq!(checked(false, json!({"spec": {"volumeName": ""}})).unwrap_err(), "PVC has empty pvc.Spec.VolumeName");
        let deleted = "2026-01-01T00:00:00Z";
        assert_eq!(checked(false, json!({"metadata": {"deletionTimestamp": deleted}})).unwrap_err(), "PVC is being deleted");
        let protected = json!({"metadata": {"deletionTimestamp": deleted, "finalizers": [PROTECTION]}});
        assert!(checked(false, protected).is_ok());
    }

    // VOL-009
    #[test]
    fn claim_of_an_ephemeral_volume_is_the_pods_own() {
        let owner = |uid: &str| {
            json!({"metadata": {"ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true}]}})
        };
        assert!(checked(true, owner("u")).is_ok());
        let foreign = checked(true, owner("other")).unwrap_err();
        assert_eq!(foreign, "PVC ns/data was not created for pod ns/p (pod is not owner)");
        assert!(checked(false, owner("other")).is_ok());
    }

    // VOL-007
    #[test]
    fn volume_must_be_bound_to_this_claim() {
        let volume = |claim_ref: Value| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "pv-1"}, "spec": {"claimRef": claim_ref}})).unwrap()
        };
        let check = |claim_ref: Value| check_volume(&claim(json!({})), &volume(claim_ref));
        assert_eq!(check(json!({"uid": "c"})), Ok(()));
        assert!(check(Value::Null).unwrap_err().contains("it has a nil pv.Spec.ClaimRef"));
        let other = "found PV object pv-1 but its pv.Spec.ClaimRef.UID x does not point to claim.UID c";
        assert_eq!(check(json!({"uid": "x"})).unwrap_err(), other);
    }
}
