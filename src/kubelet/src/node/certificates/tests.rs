use k8s_openapi::api::certificates::v1::{CertificateSigningRequestCondition, CertificateSigningRequestStatus};
use proptest::prelude::*;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn now(mono: u64, wall: i64) -> Now {
    Now { mono: Mono::from_start(Duration::from_secs(mono)), wall: at(wall) }
}

fn held(not_before: i64, not_after: i64) -> Held {
    Held {
        not_before: at(not_before),
        not_after: at(not_after),
        common_name: "system:node:n1".to_owned(),
        organizations: vec!["system:nodes".to_owned()],
        names: serving::Names::default(),
    }
}

fn rotation(held: Option<Held>, wall: i64) -> Rotation {
    Rotation::new("n1", held, false, 7, now(0, wall))
}

proptest! {
    // API-194
    #[test]
    fn renewal_lies_between_seven_and_nine_tenths_of_a_life(begin in 0_i64..4_000_000_000, life in 1_i64..400_000_000, draw in 0.0..1.0_f64) {
        let due = renewal_time(at(begin), at(begin + life), draw).duration_since(at(begin)).as_secs_f64();
        let share = due / life as f64;
        prop_assert!((0.699_999..=0.900_001).contains(&share), "{share}");
    }

    // API-194: whatever the clock does, a step never waits longer than until the next look, and a certificate is asked for by its end.
    #[test]
    fn expired_certificate_is_never_waited_on(seed: u64, life in 10_i64..1_000_000, wall in -1_000_000_i64..2_000_000) {
        let mut rotation = Rotation::new("n1", Some(held(0, life)), false, seed, now(0, 0));
        match rotation.step(now(1, wall)) {
            Step::Wait(wait) => prop_assert!(wait <= LOOK_EVERY && wall <= life),
            Step::Request => prop_assert!(wall > life || at(wall) >= rotation.due()),
            Step::End => prop_assert!(false, "nobody answered yet"),
        }
    }

    // API-194: 2, 4, 8 and 16 seconds, each up to a tenth longer, then 32.
    #[test]
    fn retries_come_later_and_then_evenly(seed: u64) {
        let mut rotation = Rotation::new("n1", None, true, seed, now(0, 0));
        let mut at = now(0, 0);
        for (base, most) in [(2.0, 2.2), (4.0, 4.4), (8.0, 8.8), (16.0, 17.6), (32.0, 32.0), (32.0, 32.0)] {
            prop_assert_eq!(rotation.step(at), Step::Request);
            rotation.failed(at);
            let began = at.mono;
            while let Step::Wait(wait) = rotation.step(at) {
                at.mono = at.mono + wait;
            }
            let waited = at.mono.since(began).as_secs_f64();
            prop_assert!((base..=most + 0.001).contains(&waited), "{waited}");
        }
    }

    // API-192: other parts, another name.
    #[test]
    fn no_two_requests_are_digested_alike(a in "[a-z]{0,6}", b in "[a-z]{0,6}", x in "[a-z]{0,6}", y in "[a-z]{0,6}") {
        let same = digested_of(a.as_bytes(), &b) == digested_of(x.as_bytes(), &y);
        prop_assert_eq!(same, a == x && b == y);
    }
}

// API-194
#[test]
fn certificate_of_somebody_else_is_replaced_at_once() {
    let other = |change: fn(&mut Held)| {
        let mut held = held(0, 1000);
        change(&mut held);
        rotation(Some(held), 10).step(now(0, 10))
    };
    assert_eq!(other(|_| ()), Step::Wait(LOOK_EVERY));
    assert_eq!(other(|held| held.common_name = "system:node:n2".to_owned()), Step::Request);
    assert_eq!(other(|held| held.organizations = vec!["system:masters".to_owned()]), Step::Request);
    // More than was asked for is no reason.
    assert_eq!(other(|held| held.organizations.push("system:masters".to_owned())), Step::Wait(LOOK_EVERY));
}

// API-194: what an administrator put into the kubeconfig is replaced whatever its age.
#[test]
fn given_certificate_is_replaced_at_once_and_shown_until_then() {
    let mut rotation = Rotation::new("n1", Some(held(0, 1000)), true, 7, now(0, 10));
    assert!(rotation.is_valid(now(0, 10)));
    assert_eq!(rotation.step(now(0, 10)), Step::Request);
    rotation.renewed(now(1, 11), held(10, 1010));
    assert_eq!(rotation.step(now(1, 11)), Step::Wait(AFTER_SUCCESS));
    assert_eq!(rotation.step(now(3, 13)), Step::Wait(LOOK_EVERY));
}

// Edge case of API-194: a clock that is behind the signer's.
#[test]
fn certificate_whose_life_has_not_begun_is_shown() {
    let mut rotation = rotation(Some(held(1000, 2000)), 10);
    assert!(rotation.is_valid(now(0, 10)));
    assert_eq!(rotation.step(now(0, 10)), Step::Wait(LOOK_EVERY));
}

// A signer that gives what was not asked for is not asked in a tight loop.
#[test]
fn signer_that_gives_something_else_is_asked_once_a_second_at_most() {
    let mut rotation = rotation(None, 10);
    let mut wrong = held(0, 1000);
    wrong.common_name = "system:node:n2".to_owned();
    rotation.renewed(now(5, 15), wrong);
    assert_eq!(rotation.step(now(5, 15)), Step::Wait(Duration::from_secs(1)));
    assert_eq!(rotation.step(now(6, 16)), Step::Request);
}

// API-196
#[test]
fn agent_ends_after_five_minutes_without_certificate_if_the_server_is_well() {
    for (kind, ends) in [
        (FailureKind::Unauthorized, true),
        (FailureKind::Forbidden, true),
        (FailureKind::NotFound, true),
        (FailureKind::Unavailable, false),
        (FailureKind::UnknownOutcome, false),
        (FailureKind::Throttled { after: None }, false),
    ] {
        let mut rotation = rotation(None, 0);
        rotation.was_refused(now(1, 1), kind);
        assert!(!rotation.must_end(now(300, 300)), "{kind:?}");
        assert_eq!(rotation.must_end(now(301, 301)), ends, "{kind:?}");
        assert_eq!(rotation.step(now(301, 301)) == Step::End, ends, "{kind:?}");
    }
}

// API-196: the five minutes run from when there was one, and one that came ends them.
#[test]
fn agent_with_a_certificate_does_not_end() {
    let mut rotation = rotation(Some(held(0, 1000)), 0);
    rotation.was_refused(now(1, 1), FailureKind::Forbidden);
    assert!(!rotation.must_end(now(999, 999)));
    assert!(!rotation.must_end(now(1299, 1299)));
    assert!(rotation.must_end(now(1300, 1300)));
    rotation.renewed(now(1301, 1301), held(1301, 5000));
    assert!(!rotation.must_end(now(1302, 1302)));
    assert_eq!(rotation.failures(), 0);
}

fn answered(conditions: &[(&str, &str)], certificate: &[u8]) -> CertificateSigningRequest {
    let condition = |(kind, reason): &(&str, &str)| CertificateSigningRequestCondition {
        type_: (*kind).to_owned(),
        reason: Some((*reason).to_owned()),
        message: Some("because".to_owned()),
        ..CertificateSigningRequestCondition::default()
    };
    let mut request = signing_request(None, Vec::new());
    request.metadata.uid = Some("u1".to_owned());
    request.status = Some(CertificateSigningRequestStatus {
        certificate: (!certificate.is_empty()).then(|| ByteString(certificate.to_vec())),
        conditions: Some(conditions.iter().map(condition).collect()),
    });
    request
}

// API-191
#[test]
fn request_that_will_never_be_signed_is_an_error_in_upstreams_words() {
    let said = |request: Option<CertificateSigningRequest>| judge(request.as_ref(), "csr-x", "u1").unwrap_err();
    let both = [("Approved", "Yes"), ("Denied", "No")];
    assert_eq!(said(Some(answered(&both, b""))), "certificate signing request is denied, reason: No, message: because");
    let failed = [("Approved", "Yes"), ("Failed", "SignerValidationFailure")];
    assert_eq!(
        said(Some(answered(&failed, b"pem"))),
        "certificate signing request failed, reason: SignerValidationFailure, message: because"
    );
    let mut other = answered(&[("Approved", "Yes")], b"pem");
    other.metadata.uid = Some("u2".to_owned());
    assert_eq!(said(Some(other)), "csr \"csr-x\" changed UIDs");
    assert_eq!(said(None), "csr \"csr-x\" was deleted");
}

// API-191
#[test]
fn certificate_counts_once_it_is_approved_and_there() {
    let got = |request: CertificateSigningRequest| judge(Some(&request), "csr-x", "u1").unwrap();
    assert_eq!(got(answered(&[], b"pem")), None);
    assert_eq!(got(answered(&[("Approved", "Yes")], b"")), None);
    assert_eq!(got(answered(&[("Approved", "Yes")], b"pem")), Some(b"pem".to_vec()));
}

// API-191
#[test]
fn request_names_signer_and_usages_and_leaves_the_rest_to_the_server() {
    let request = serde_json::to_value(signing_request(None, b"csr".to_vec())).unwrap();
    assert_eq!(request["metadata"], serde_json::json!({"generateName": "csr-"}));
    assert_eq!(
        request["spec"],
        serde_json::json!({
            "request": "Y3Ny",
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"],
        })
    );
    assert_eq!(signing_request(Some("node-csr-x"), Vec::new()).metadata.generate_name, None);
}

// API-173; certificate_manager.go, DefaultKubeletServingGetUsages with an EC key.
#[test]
fn request_for_a_serving_certificate_names_its_own_signer_and_usages() {
    let request = serde_json::to_value(signing_request_for(&serving::SERVING, None, b"csr".to_vec())).unwrap();
    assert_eq!(request["metadata"], serde_json::json!({"generateName": "csr-"}));
    assert_eq!(request["spec"]["signerName"], "kubernetes.io/kubelet-serving");
    assert_eq!(request["spec"]["usages"], serde_json::json!(["digital signature", "server auth"]));
}

// API-192
#[test]
fn request_of_an_earlier_life_counts_only_if_it_is_ours() {
    let ours = RequestFacts { subject: "O=system:nodes, CN=system:node:n1".to_owned(), public_key: vec![1] };
    let check = |found: &RequestFacts, signer: &str, expiry| check_compatible(found, &ours, signer, expiry, at(100));
    assert_eq!(check(&ours, SIGNER, Some(at(100))), Ok(()));
    let starts = |outcome: Result<(), String>, text: &str| assert!(outcome.clone().unwrap_err().starts_with(text), "{outcome:?}");
    starts(check(&RequestFacts { subject: "CN=x".to_owned(), ..ours.clone() }, SIGNER, None), "csr subjects differ: ");
    starts(check(&RequestFacts { public_key: vec![2], ..ours.clone() }, SIGNER, None), "error validating signature");
    starts(check(&ours, "kubernetes.io/kube-apiserver-client", None), "csr signerNames differ: ");
    starts(check(&ours, SIGNER, Some(at(99))), "one of the certificates for the CSR has expired: ");
}

// API-190
#[test]
fn kubeconfig_with_a_good_certificate_goes_before_the_bootstrap() {
    let bootstraps = |found| matches!(compute_start(found, at(100)), Start::Bootstrap(_));
    assert!(!bootstraps(Found::Expiries(vec![at(100), at(200)])));
    assert!(bootstraps(Found::Expiries(vec![at(200), at(99)])), "one of the chain has expired");
    assert!(bootstraps(Found::Expiries(Vec::new())), "a token is no certificate");
    assert!(bootstraps(Found::Unusable("nonsense".to_owned())));
    assert_eq!(compute_start(Found::Nothing, at(100)), Start::Bootstrap(None));
}
