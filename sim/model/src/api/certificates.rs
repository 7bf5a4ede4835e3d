//! Requests for certificates: whose they are, which of them a controller manager approves, and what becomes of them.
//! Upstream: pkg/registry/certificates, pkg/controller/certificates/{approver,signer}.
//! Differs: what a request asks for is read by whoever signs; bootstrappers and nodes are allowed what kubeadm's bindings allow them.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::ApiModel;
use super::authorize::Identity;
use super::defaults::items;
use super::error::ApiError;
use super::resource::{Resource, named};
use super::write::seconds;

/// The signer of nodes' client certificates.
pub const KUBELET_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";

/// The signer of nodes' serving certificates; nobody approves these by himself.
pub const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

/// What a request asks for, by whoever can read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The subject's common name.
    pub common_name: String,
    /// The subject's organizations.
    pub organizations: Vec<String>,
    /// Whether it asks for other names.
    pub other_names: bool,
}

fn requests() -> &'static Resource {
    named("certificatesigningrequests")
}

/// Says whose a new request is, whatever it says itself.
pub(super) fn stamp(who: &Identity, request: &mut Value) {
    if !request["spec"].is_object() {
        request["spec"] = json!({});
    }
    request["spec"]["username"] = who.user.as_str().into();
    request["spec"]["groups"] = json!(who.groups);
    request["status"] = json!({});
}

/// Why a controller manager approves a request; none if it leaves it to somebody else.
#[must_use]
pub fn approval(request: &Value, asked: &Asked) -> Option<&'static str> {
    let spec = &request["spec"];
    let usages: Vec<&str> = items(spec, "usages").filter_map(Value::as_str).collect();
    let of_a_client = usages.contains(&"digital signature")
        && usages.contains(&"client auth")
        && usages.iter().all(|usage| matches!(*usage, "digital signature" | "client auth" | "key encipherment"));
    let of_a_node = asked.organizations == ["system:nodes"] && asked.common_name.starts_with("system:node:") && !asked.other_names;
    if spec["signerName"] != KUBELET_SIGNER || !of_a_client || !of_a_node {
        return None;
    }
    let is_in = |group: &str| items(spec, "groups").any(|g| g == group);
    if is_in("system:nodes") && spec["username"] == asked.common_name.as_str() {
        return Some("Auto approving self kubelet client certificate after SubjectAccessReview.");
    }
    is_in("system:bootstrappers").then_some("Auto approving kubelet client certificate after SubjectAccessReview.")
}

/// Why the signer of serving certificates does not sign an approved request (pkg/apis/certificates/helpers.go,
/// ValidateKubeletServingCSR); none if it does.
#[must_use]
pub fn unfit_for_serving(request: &Value, asked: &Asked) -> Option<&'static str> {
    let usages: Vec<&str> = items(&request["spec"], "usages").filter_map(Value::as_str).collect();
    let fits = usages.contains(&"digital signature")
        && usages.contains(&"server auth")
        && usages.iter().all(|usage| matches!(*usage, "digital signature" | "server auth" | "key encipherment"));
    if asked.organizations != ["system:nodes"] {
        Some("subject organization is not system:nodes")
    } else if !asked.common_name.starts_with("system:node:") {
        Some("subject common name does not begin with system:node: ")
    } else if !asked.other_names {
        Some("DNS or IP subjectAltName is required")
    } else if !fits {
        Some("usages did not match [digital signature server auth]")
    } else {
        None
    }
}

fn has(request: &Value, condition: &str) -> bool {
    items(&request["status"], "conditions").any(|c| c["type"] == condition)
}

impl ApiModel {
    /// The requests of which nothing has become yet: neither approved nor denied, or approved and not signed.
    #[must_use]
    pub fn open_requests(&self) -> Vec<Arc<Value>> {
        let open = |request: &&Arc<Value>| {
            let settled = has(request, "Denied") || has(request, "Failed") || !request["status"]["certificate"].is_null();
            !settled
        };
        self.store.list(requests().plural, "").filter(open).cloned().collect()
    }

    /// Whether a request was approved.
    #[must_use]
    pub fn is_approved(request: &Value) -> bool {
        has(request, "Approved")
    }

    /// Says `Approved` or `Denied` of a request.
    ///
    /// # Errors
    /// 404.
    pub fn judge_request(
        &mut self,
        now: Timestamp,
        name: &str,
        verdict: &str,
        reason: &str,
        message: &str,
    ) -> Result<(), ApiError> {
        let mut request = (*self.get(requests(), "", name)?).clone();
        let at = seconds(now);
        let condition = json!({"type": verdict, "status": "True", "reason": reason, "message": message, "lastUpdateTime": at,
            "lastTransitionTime": at});
        if !request["status"]["conditions"].is_array() {
            request["status"]["conditions"] = json!([]);
        }
        if let Some(conditions) = request["status"]["conditions"].as_array_mut() {
            conditions.push(condition);
        }
        self.update(now, requests(), "", name, "approval", request).map(drop)
    }

    /// Puts a certificate, in PEM, into a request.
    ///
    /// # Errors
    /// 404.
    pub fn issue(&mut self, now: Timestamp, name: &str, certificate: &str) -> Result<(), ApiError> {
        let mut request = (*self.get(requests(), "", name)?).clone();
        request["status"]["certificate"] = STANDARD.encode(certificate).into();
        self.update(now, requests(), "", name, "status", request).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::request::{Request, Verb};

    fn now() -> Timestamp {
        Timestamp::from_second(1_790_000_000).unwrap()
    }

    fn body(name: &str) -> Value {
        let usages = ["digital signature", "client auth"];
        json!({"metadata": {"name": name}, "spec": {"request": "", "signerName": KUBELET_SIGNER, "usages": usages, "username": "forged"}})
    }

    fn made_by(model: &mut ApiModel, who: &Identity, name: &str) -> Result<Arc<Value>, ApiError> {
        let create = Request::new(Verb::Create, "certificatesigningrequests", "", "").with(body(name));
        Ok(model.request(now(), who, &create)?.object().unwrap())
    }

    #[test]
    fn bootstrapper_may_ask_for_a_certificate_and_nothing_else() {
        let mut model = ApiModel::new(now(), 7);
        model.bootstrap_tokens.insert("abcdef.0123456789abcdef".to_owned());
        let who = model.authenticate(now(), "abcdef.0123456789abcdef").unwrap();
        assert_eq!(who.user, "system:bootstrap:abcdef");
        let made = made_by(&mut model, &who, "csr-a").unwrap();
        assert_eq!(made["spec"]["username"], "system:bootstrap:abcdef");
        let may = |model: &mut ApiModel, request: Request| model.request(now(), &who, &request).is_ok();
        assert!(may(&mut model, Request::new(Verb::Get, "certificatesigningrequests", "", "csr-a")));
        let approval = Request::new(Verb::Update, "certificatesigningrequests", "", "csr-a").of("approval").with((*made).clone());
        assert!(!may(&mut model, approval));
        assert!(!may(&mut model, Request::new(Verb::List, "nodes", "", "")));
        assert!(made_by(&mut model, &Identity::node("n1"), "csr-b").is_ok());
        assert!(made_by(&mut model, &Identity::anonymous(), "csr-c").is_err());
    }

    #[test]
    fn only_a_nodes_own_request_is_approved() {
        let mut model = ApiModel::new(now(), 7);
        let asked =
            Asked { common_name: "system:node:n1".to_owned(), organizations: vec!["system:nodes".to_owned()], other_names: false };
        let by =
            |who: Identity, model: &mut ApiModel| made_by(model, &who, &format!("csr-{}", who.user.replace(':', "-"))).unwrap();
        let approved = |request: &Value, asked: &Asked| approval(request, asked).is_some();
        let (joins, own) = (by(Identity::bootstrap("a"), &mut model), by(Identity::node("n1"), &mut model));
        let other = by(Identity::node("n2"), &mut model);
        assert!(approved(&joins, &asked) && approved(&own, &asked));
        assert!(!approved(&other, &asked), "a node asks for itself only");
        for wrong in [
            Asked { common_name: "admin".to_owned(), ..asked.clone() },
            Asked { organizations: vec!["system:masters".to_owned()], ..asked.clone() },
            Asked { other_names: true, ..asked.clone() },
        ] {
            assert!(!approved(&joins, &wrong), "{wrong:?}");
        }
        let mut elsewhere = (*joins).clone();
        elsewhere["spec"]["signerName"] = "kubernetes.io/kube-apiserver-client".into();
        assert!(!approved(&elsewhere, &asked));
    }

    // pkg/apis/certificates/helpers.go, ValidateKubeletServingCSR
    #[test]
    fn serving_certificate_is_signed_for_a_node_with_other_names_only() {
        let request = |usages: &[&str]| json!({"spec": {"signerName": SERVING_SIGNER, "usages": usages}});
        let good =
            Asked { common_name: "system:node:n1".to_owned(), organizations: vec!["system:nodes".to_owned()], other_names: true };
        let serving = request(&["digital signature", "server auth"]);
        assert_eq!(unfit_for_serving(&serving, &good), None);
        assert_eq!(approval(&serving, &good), None, "nobody approves it by himself");
        for wrong in [
            Asked { common_name: "n1".to_owned(), ..good.clone() },
            Asked { organizations: Vec::new(), ..good.clone() },
            Asked { other_names: false, ..good.clone() },
        ] {
            assert!(unfit_for_serving(&serving, &wrong).is_some(), "{wrong:?}");
        }
        assert!(unfit_for_serving(&request(&["digital signature", "client auth"]), &good).is_some());
    }

    #[test]
    fn request_is_open_until_it_is_denied_or_signed() {
        let mut model = ApiModel::new(now(), 7);
        for name in ["csr-a", "csr-b"] {
            made_by(&mut model, &Identity::bootstrap("x"), name).unwrap();
        }
        model.judge_request(now(), "csr-a", "Denied", "No", "never").unwrap();
        model.judge_request(now(), "csr-b", "Approved", "Yes", "of course").unwrap();
        let open = model.open_requests();
        assert_eq!(open.len(), 1);
        assert!(ApiModel::is_approved(&open[0]));
        model.issue(now(), "csr-b", "PEM").unwrap();
        assert!(model.open_requests().is_empty());
        let issued = model.get(requests(), "", "csr-b").unwrap();
        assert_eq!(
            (&issued["status"]["certificate"], &issued["status"]["conditions"][0]["type"]),
            (&json!("UEVN"), &json!("Approved"))
        );
    }
}
