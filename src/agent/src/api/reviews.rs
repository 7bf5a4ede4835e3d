//! Who a token is, and what a user may do: asked of the API server.
//! Upstream: staging/src/k8s.io/apiserver/plugin/pkg/{authenticator/token,authorizer}/webhook.
//! Differs: nothing on purpose.

use http::Method;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kubelet::failure::{Failure, FailureKind};

use super::send::{Ask, Kind, Sender};
use crate::env::{AccessReview, UserInfo};

/// API-023
pub(super) async fn token(sender: &Sender, token: String) -> Result<Option<UserInfo>, Failure> {
    let spec = TokenReviewSpec { token, audiences: None };
    let review = TokenReview { spec, ..TokenReview::default() };
    let path = "/apis/authentication.k8s.io/v1/tokenreviews".to_owned();
    let answer: TokenReview = sender.object(Ask::with(Method::POST, path, Kind::Json, &review)).await?;
    let status = answer.status.unwrap_or_default();
    if !status.authenticated.unwrap_or(false) {
        return Ok(None);
    }
    let user = status.user.unwrap_or_default();
    Ok(Some(UserInfo {
        name: user.username.unwrap_or_default(),
        uid: user.uid.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
        extra: user.extra.unwrap_or_default().into_iter().collect(),
    }))
}

/// API-046
pub(super) async fn access(sender: &Sender, node: &str, review: AccessReview) -> Result<bool, Failure> {
    let user = review.user;
    let attributes = ResourceAttributes {
        verb: Some(review.verb),
        version: Some("v1".to_owned()),
        resource: Some("nodes".to_owned()),
        subresource: Some(review.subresource),
        name: Some(node.to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: Some(user.name),
        uid: Some(user.uid).filter(|uid| !uid.is_empty()),
        groups: Some(user.groups).filter(|groups| !groups.is_empty()),
        extra: Some(user.extra.into_iter().collect()).filter(|extra: &std::collections::BTreeMap<_, _>| !extra.is_empty()),
        resource_attributes: Some(attributes),
        non_resource_attributes: None,
    };
    let asked = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews".to_owned();
    let answer: SubjectAccessReview = sender.object(Ask::with(Method::POST, path, Kind::Json, &asked)).await?;
    let status = answer.status.unwrap_or_default();
    if status.allowed && status.denied == Some(true) {
        let both = "webhook subject access review returned both allow and deny response";
        return Err(Failure::new(FailureKind::Other, both));
    }
    Ok(status.allowed)
}
