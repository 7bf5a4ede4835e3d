//! Decides whether a pod may use an image that is there, or has to show by a pull that it may.
//! Upstream: pkg/kubelet/images/pullmanager/{image_pull_policies,image_pull_manager}.go (MustAttemptImagePull).
//! Differs: nothing on purpose.

use super::keyring::{Credential, Source};
use super::name;
use super::records::{AccountRecord, Known, PullRecords, SecretRecord};
use crate::config::{CredentialsVerification, Images};
use crate::time::Now;

/// How many Secrets a record names before those of pods that show the same credentials are not added any more.
const MOST_LEARNT: usize = 100;

/// What is to be done for a pod that wants an image that is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may use it.
    Allowed,
    /// It must pull it.
    MustPull,
    /// That hangs on its credentials.
    ShowCredentials,
}

/// Judges without the pod's credentials, or with them.
pub(super) fn judge(
    now: Now,
    settings: &Images,
    records: &mut PullRecords,
    image: &str,
    image_ref: &str,
    credentials: Option<&[Credential]>,
) -> Verdict {
    if !records.kept() {
        return Verdict::Allowed;
    }
    let known = records.known(image, image_ref);
    if known == Known::Unreadable {
        return Verdict::MustPull;
    }
    if !is_verified(settings, image, known != Known::Nothing) {
        return Verdict::Allowed;
    }
    let Known::By(Some(cached)) = known else { return Verdict::MustPull };
    if cached.node_pods_accessible {
        return Verdict::Allowed;
    }
    if cached.kubernetes_secrets.is_empty() && cached.kubernetes_service_accounts.is_empty() {
        return Verdict::MustPull;
    }
    let Some(credentials) = credentials else { return Verdict::ShowCredentials };
    let mut learnt = None;
    let found = credentials.iter().any(|credential| match &credential.source {
        Source::Secret(secret) => {
            let shown = SecretRecord::of(secret, &credential.hash);
            cached.kubernetes_secrets.iter().any(|cached_secret| {
                let same_hash = !cached_secret.credential_hash.is_empty() && cached_secret.credential_hash == shown.credential_hash;
                let same_secret = cached_secret.is_of_same_secret(&shown);
                let room = cached.kubernetes_secrets.len() < MOST_LEARNT;
                if same_hash != same_secret && room {
                    learnt = Some(shown.clone());
                }
                same_hash || (same_secret && room)
            })
        }
        Source::ServiceAccount(_) | Source::Node => false,
    });
    // Only the first service account counts: a pod has one.
    let account = credentials.iter().find_map(|credential| match &credential.source {
        Source::ServiceAccount(account) => Some(AccountRecord::of(account)),
        _ => None,
    });
    let found = found || account.is_some_and(|account| cached.kubernetes_service_accounts.contains(&account));
    if let Some(secret) = learnt {
        records.also(now, image, image_ref, secret);
    }
    if found { Verdict::Allowed } else { Verdict::MustPull }
}

/// RequireCredentialVerificationForImage
fn is_verified(settings: &Images, image: &str, pulled_by_the_agent: bool) -> bool {
    match settings.credentials_verification {
        CredentialsVerification::NeverVerify => false,
        CredentialsVerification::NeverVerifyPreloadedImages => pulled_by_the_agent,
        CredentialsVerification::NeverVerifyAllowlistedImages => !is_listed(&settings.preloaded_allowlist, image),
        CredentialsVerification::AlwaysVerify => true,
    }
}

fn is_listed(allowlist: &[String], image: &str) -> bool {
    let name = name::without_tag(image);
    allowlist.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) if prefix.ends_with('/') => name.starts_with(prefix),
        _ => name == pattern,
    })
}
