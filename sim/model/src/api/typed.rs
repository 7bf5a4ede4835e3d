//! The agent core's own calls, answered without any wire in between.
//! Upstream: none; it stands for the agent's API adapter and the API server together.
//! Differs: nothing on purpose.

use std::sync::Arc;

use jiff::Timestamp;
use kubelet::action::ApiCall;
use kubelet::event::{ApiReply, WatchKey};
use kubelet::failure::{Failure, FailureKind};
use kubelet::sensitive::Sensitive;
use serde::Serialize;
use serde_json::{Value, json};

use super::ApiModel;
use super::authorize::Identity;
use super::request::{Request, Verb};
use super::watch::{read, typed};

const LEASES: &str = "kube-node-lease";

impl ApiModel {
    /// Makes one of the core's calls. `Watch` and `Unwatch` are not calls but for [`ApiModel::open`]: they answer `Done`.
    ///
    /// # Errors
    /// As the API server refuses, classified as the agent's adapter classifies it.
    pub fn call(&mut self, now: Timestamp, who: &Identity, call: &ApiCall) -> Result<ApiReply, Failure> {
        let node = who.node_name().unwrap_or_default().to_owned();
        match call {
            ApiCall::Watch(_) | ApiCall::Unwatch(_) => Ok(ApiReply::Done),
            ApiCall::GetNode => self.node(now, who, Request::new(Verb::Get, "nodes", "", &node)),
            ApiCall::CreateNode(new) => self.node(now, who, Request::new(Verb::Create, "nodes", "", "").with(value(new))),
            ApiCall::PatchNodeStatus(patch) => {
                self.node(now, who, Request::new(Verb::Patch, "nodes", "", &node).of("status").with(patch.clone()))
            }
            ApiCall::GetLease => self.lease(now, who, Request::new(Verb::Get, "leases", LEASES, &node)),
            ApiCall::CreateLease(new) => self.lease(now, who, Request::new(Verb::Create, "leases", LEASES, "").with(value(new))),
            ApiCall::UpdateLease(new) => self.lease(now, who, Request::new(Verb::Update, "leases", LEASES, &node).with(value(new))),
            ApiCall::GetCsiNode => self.csi_node(now, who, Request::new(Verb::Get, "csinodes", "", &node)),
            ApiCall::CreateCsiNode(new) => self.csi_node(now, who, Request::new(Verb::Create, "csinodes", "", "").with(value(new))),
            ApiCall::UpdateCsiNode(new) => {
                self.csi_node(now, who, Request::new(Verb::Update, "csinodes", "", &node).with(value(new)))
            }
            ApiCall::DeleteCsiNode => self.removal(now, who, &Request::new(Verb::Delete, "csinodes", "", &node)),
            ApiCall::GetPod { namespace, name } => self.pod(now, who, Request::new(Verb::Get, "pods", namespace, name)),
            ApiCall::CreatePod(new) => {
                let namespace = new.metadata.namespace.clone().unwrap_or_default();
                self.pod(now, who, Request::new(Verb::Create, "pods", &namespace, "").with(value(new)))
            }
            ApiCall::PatchPodStatus { namespace, name, patch } => {
                self.pod(now, who, Request::new(Verb::Patch, "pods", namespace, name).of("status").with(patch.clone()))
            }
            ApiCall::DeletePod { namespace, name, uid, grace_seconds } => {
                let options = json!({"gracePeriodSeconds": grace_seconds, "preconditions": {"uid": uid.as_str()}});
                self.removal(now, who, &Request::new(Verb::Delete, "pods", namespace, name).with(options))
            }
            ApiCall::GetPersistentVolumeClaim { namespace, name } => {
                let found = self.one(now, who, &Request::new(Verb::Get, "persistentvolumeclaims", namespace, name))?;
                Ok(ApiReply::Claim(Box::new(Arc::unwrap_or_clone(read(&found)?))))
            }
            ApiCall::GetPersistentVolume { name } => {
                let found = self.one(now, who, &Request::new(Verb::Get, "persistentvolumes", "", name))?;
                Ok(ApiReply::PersistentVolume(Box::new(Arc::unwrap_or_clone(read(&found)?))))
            }
            ApiCall::GetVolumeAttachment { name } => {
                let found = self.one(now, who, &Request::new(Verb::Get, "volumeattachments", "", name))?;
                Ok(ApiReply::Attachment(Box::new(Arc::unwrap_or_clone(read(&found)?))))
            }
            ApiCall::GetObject { key, .. } => self.object(now, who, key),
            ApiCall::CreateToken { namespace, service_account, request } => {
                let body = value(request);
                let request = Request::new(Verb::Create, "serviceaccounts", namespace, service_account).of("token").with(body);
                let token = self.one(now, who, &request)?;
                Ok(ApiReply::Token(Sensitive::new(Arc::unwrap_or_clone(read(&token["status"])?))))
            }
            ApiCall::CreateEvent(new) => {
                let namespace = new.metadata.namespace.clone().unwrap_or_default();
                self.event(now, who, &Request::new(Verb::Create, "events", &namespace, "").with(value(new)))
            }
            ApiCall::PatchEvent { namespace, name, patch } => {
                self.event(now, who, &Request::new(Verb::Patch, "events", namespace, name).with(patch.clone()))
            }
        }
    }

    fn one(&mut self, now: Timestamp, who: &Identity, request: &Request) -> Result<Arc<Value>, Failure> {
        let reply = self.request(now, who, request).map_err(|e| e.failure())?;
        reply.object().ok_or_else(|| Failure::new(FailureKind::Other, "a list where an object was expected"))
    }

    fn node(&mut self, now: Timestamp, who: &Identity, request: Request) -> Result<ApiReply, Failure> {
        Ok(ApiReply::Node(read(&*self.one(now, who, &request)?)?))
    }

    fn pod(&mut self, now: Timestamp, who: &Identity, request: Request) -> Result<ApiReply, Failure> {
        Ok(ApiReply::Pod(read(&*self.one(now, who, &request)?)?))
    }

    fn lease(&mut self, now: Timestamp, who: &Identity, request: Request) -> Result<ApiReply, Failure> {
        Ok(ApiReply::Lease(Box::new(Arc::unwrap_or_clone(read(&*self.one(now, who, &request)?)?))))
    }

    fn csi_node(&mut self, now: Timestamp, who: &Identity, request: Request) -> Result<ApiReply, Failure> {
        Ok(ApiReply::CsiNode(Box::new(Arc::unwrap_or_clone(read(&*self.one(now, who, &request)?)?))))
    }

    fn event(&mut self, now: Timestamp, who: &Identity, request: &Request) -> Result<ApiReply, Failure> {
        let stored = self.one(now, who, request)?;
        Ok(ApiReply::EventStored { name: stored["metadata"]["name"].as_str().unwrap_or_default().to_owned() })
    }

    /// Removing what is not there is success.
    fn removal(&mut self, now: Timestamp, who: &Identity, request: &Request) -> Result<ApiReply, Failure> {
        match self.request(now, who, request) {
            Ok(_) => Ok(ApiReply::Done),
            Err(error) if error.code == 404 => Ok(ApiReply::Done),
            Err(error) => Err(error.failure()),
        }
    }

    fn object(&mut self, now: Timestamp, who: &Identity, key: &WatchKey) -> Result<ApiReply, Failure> {
        let request = match key {
            WatchKey::ConfigMap { namespace, name } => Request::new(Verb::Get, "configmaps", namespace, name),
            WatchKey::Secret { namespace, name } => Request::new(Verb::Get, "secrets", namespace, name),
            other => return Err(Failure::new(FailureKind::Invalid, format!("{other:?} is not one object"))),
        };
        Ok(ApiReply::Object(typed(key, &*self.one(now, who, &request)?)?))
    }
}

fn value(typed: &impl Serialize) -> Value {
    // API types are plain data: they always serialize.
    serde_json::to_value(typed).unwrap_or_default()
}
