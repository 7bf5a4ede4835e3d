//! Service account tokens, and the questions that authentication and authorization webhooks ask.
//! Upstream: pkg/serviceaccount, pkg/registry/core/serviceaccount/storage/token.go, pkg/registry/authentication/tokenreview.
//! Differs: tokens look like JWTs and carry the real claims, but their signature is a digest that proves nothing.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::ApiModel;
use super::authorize::{self, Identity};
use super::error::ApiError;
use super::request::{Reply, Request, Verb};
use super::resource::{RESOURCES, named};
use super::write::seconds;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

impl ApiModel {
    pub(super) fn request_token(&mut self, now: Timestamp, who: &Identity, request: &Request) -> Result<Reply, ApiError> {
        let accounts = named("serviceaccounts");
        let account = self.get(accounts, &request.namespace, &request.name)?;
        authorize::admit(&self.store, who, request, &account, &request.body)?;
        let spec = &request.body["spec"];
        let asked = spec["expirationSeconds"].as_i64().unwrap_or(3600);
        if asked < 600 {
            return Err(ApiError::invalid(
                accounts,
                &request.name,
                &format!("spec.expirationSeconds: Invalid value: {asked}: may not specify a duration less than 10 minutes"),
            ));
        }
        let bound = &spec["boundObjectRef"];
        if bound["kind"] == "Pod" {
            self.check_bound_pod(request, bound)?;
        }
        let audiences = match spec["audiences"].as_array().filter(|a| !a.is_empty()) {
            Some(list) => Value::Array(list.clone()),
            None => json!([ISSUER]),
        };
        let expires = now + SignedDuration::from_secs(asked);
        let mut kubernetes = json!({
            "namespace": request.namespace,
            "serviceaccount": {"name": request.name, "uid": account["metadata"]["uid"]},
        });
        if bound["kind"] == "Pod" {
            kubernetes["pod"] = json!({"name": bound["name"], "uid": bound["uid"]});
        }
        let id = self.fresh_uid();
        let claims = json!({
            "aud": audiences, "exp": expires.as_second(), "iat": now.as_second(), "nbf": now.as_second(), "iss": ISSUER, "jti": id,
            "sub": format!("system:serviceaccount:{}:{}", request.namespace, request.name), "kubernetes.io": kubernetes,
        });
        let mut reply = request.body.clone();
        reply["kind"] = "TokenRequest".into();
        reply["apiVersion"] = "authentication.k8s.io/v1".into();
        reply["metadata"] = json!({"name": request.name, "namespace": request.namespace, "creationTimestamp": seconds(now)});
        reply["spec"]["audiences"] = audiences;
        reply["spec"]["expirationSeconds"] = asked.into();
        reply["status"] = json!({"token": sign(&claims), "expirationTimestamp": seconds(expires)});
        Ok(Reply::Created(Arc::new(reply)))
    }

    fn check_bound_pod(&self, request: &Request, bound: &Value) -> Result<(), ApiError> {
        let (pods, name) = (named("pods"), bound["name"].as_str().unwrap_or_default());
        let pod = self.get(pods, &request.namespace, name)?;
        if pod["spec"]["serviceAccountName"] != request.name.as_str() {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                request.name
            )));
        }
        let (asked, was) = (bound["uid"].as_str().unwrap_or_default(), pod["metadata"]["uid"].as_str().unwrap_or_default());
        if !asked.is_empty() && asked != was {
            let why = format!(
                "the UID in the bound object reference ({asked}) does not match the UID in record. The object might have been deleted \
                 and then recreated"
            );
            return Err(ApiError::conflict(pods, name, &why));
        }
        Ok(())
    }

    /// Whom a token stands for, if it is one of ours, has not expired, and what it is bound to is still there.
    #[must_use]
    pub fn authenticate(&self, now: Timestamp, token: &str) -> Option<Identity> {
        if self.bootstrap_tokens.contains(token) {
            return Some(Identity::bootstrap(token.split('.').next().unwrap_or_default()));
        }
        let claims = claims_of(token)?;
        if claims["exp"].as_i64()? <= now.as_second() {
            return None;
        }
        let kubernetes = &claims["kubernetes.io"];
        let namespace = kubernetes["namespace"].as_str()?;
        let account = self.store.get("serviceaccounts", namespace, kubernetes["serviceaccount"]["name"].as_str()?)?;
        if account["metadata"]["uid"] != kubernetes["serviceaccount"]["uid"] {
            return None;
        }
        if let Some(pod) = kubernetes["pod"]["name"].as_str() {
            self.store.get("pods", namespace, pod).filter(|p| p["metadata"]["uid"] == kubernetes["pod"]["uid"])?;
        }
        let group = format!("system:serviceaccounts:{namespace}");
        Some(Identity::new(claims["sub"].as_str()?, &["system:serviceaccounts", &group, "system:authenticated"]))
    }

    pub(super) fn review(&self, now: Timestamp, who: &Identity, request: &Request) -> Result<Reply, ApiError> {
        let spec = &request.body["spec"];
        let status = match request.resource.plural {
            "tokenreviews" => match self.authenticate(now, spec["token"].as_str().unwrap_or_default()) {
                Some(identity) => json!({"authenticated": true, "user": user_of(&identity), "audiences": [ISSUER]}),
                None => json!({"user": {}, "error": "[invalid bearer token, token lookup failed]"}),
            },
            "selfsubjectreviews" => json!({"userInfo": user_of(who)}),
            "selfsubjectaccessreviews" => self.access(now, who, spec),
            _ => {
                let groups: Vec<&str> = spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                self.access(now, &Identity::new(spec["user"].as_str().unwrap_or_default(), &groups), spec)
            }
        };
        let mut reply = request.body.clone();
        reply["apiVersion"] = request.resource.api_version().into();
        reply["kind"] = request.resource.kind.into();
        reply["status"] = status;
        Ok(Reply::Created(Arc::new(reply)))
    }

    fn access(&self, now: Timestamp, who: &Identity, spec: &Value) -> Value {
        if who.is_admin() || self.privileged.contains(&who.user) {
            return json!({"allowed": true, "reason": "privileged"});
        }
        let attributes = &spec["resourceAttributes"];
        let text = |field: &str| attributes[field].as_str().unwrap_or_default();
        let verb =
            [Verb::Get, Verb::List, Verb::Watch, Verb::Create, Verb::Update, Verb::Patch, Verb::Delete, Verb::DeleteCollection]
                .into_iter()
                .find(|v| v.as_str() == text("verb"));
        let resource = RESOURCES.iter().find(|r| r.plural == text("resource") && r.group == text("group"));
        let (Some(verb), Some(resource)) = (verb, resource) else { return json!({"allowed": false}) };
        let request = Request::new(verb, resource.plural, text("namespace"), text("name")).of(text("subresource"));
        match self.authorize(now, who, &request) {
            Ok(()) => json!({"allowed": true}),
            Err(error) => json!({"allowed": false, "reason": error.message}),
        }
    }
}

fn user_of(identity: &Identity) -> Value {
    json!({"username": identity.user, "groups": identity.groups})
}

fn sign(claims: &Value) -> String {
    let head = URL_SAFE_NO_PAD.encode(json!({"alg": "RS256", "kid": "simulated", "typ": "JWT"}).to_string());
    let body = URL_SAFE_NO_PAD.encode(claims.to_string());
    let signature = URL_SAFE_NO_PAD.encode(digest(body.as_bytes()).to_be_bytes());
    format!("{head}.{body}.{signature}")
}

fn claims_of(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (_, body, signature) = (parts.next()?, parts.next()?, parts.next()?);
    let given = URL_SAFE_NO_PAD.decode(signature).ok()?;
    if given != digest(body.as_bytes()).to_be_bytes() {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?).ok()
}

fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |d, b| (d ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}
