//! What is accepted and what is not, as Go 1.26's crypto/x509 has it: verify.go (Verify, isValid, checkChainForKeyUsage) and x509.go
//! (CheckSignatureFrom). API-021, API-028, API-190.

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, ExtendedKeyUsagePurpose as Purpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::crypto::ring;

use super::*;
use crate::tls::tests::{ECDSA_SHA256, first_version};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn now() -> UnixTime {
    let now: Timestamp = "2026-11-23T08:31:45Z".parse().unwrap();
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap()))
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["10.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2036, 1, 1));
    params
}

/// As every authority is, but for what is changed.
fn issuer_params(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = params("ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    change(&mut params);
    params
}

fn root(change: impl FnOnce(&mut CertificateParams)) -> Issuer {
    CertifiedIssuer::self_signed(issuer_params(change), KeyPair::generate().unwrap()).unwrap()
}

fn below(root: &Issuer, change: impl FnOnce(&mut CertificateParams)) -> Issuer {
    let mut params = issuer_params(|params| params.distinguished_name.push(DnType::CommonName, "between"));
    change(&mut params);
    CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), root).unwrap()
}

fn leaf(issuer: &Issuer, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
    let mut params = params("admin");
    params.extended_key_usages = vec![Purpose::ClientAuth];
    change(&mut params);
    params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
}

fn of(certificates: &[&CertificateDer<'static>]) -> Authorities {
    let all = certificates.iter().map(|der| (*der).clone());
    Authorities::new(all, ring::default_provider().signature_verification_algorithms)
}

/// Whether a client that shows that chain is believed.
fn believes(roots: &[&CertificateDer<'static>], shown: &[&CertificateDer<'static>]) -> bool {
    let others: Vec<_> = shown[1..].iter().map(|der| (*der).clone()).collect();
    of(roots).verify(shown[0], &others, Usage::Client, now()).is_ok()
}

fn critical() -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
    extension.set_criticality(true);
    extension
}

type Change = fn(&mut CertificateParams);

/// What nobody may be who signs.
const NO_ISSUER: [(&str, Change); 8] = [
    ("no basic constraints", |it| it.is_ca = IsCa::NoCa),
    ("CA:FALSE", |it| it.is_ca = IsCa::ExplicitNoCa),
    ("CA:FALSE, without a key usage", |it| (it.is_ca, it.key_usages) = (IsCa::ExplicitNoCa, Vec::new())),
    ("no keyCertSign", |it| it.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign]),
    ("over", |it| (it.not_before, it.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2026, 11, 23))),
    ("not begun", |it| it.not_before = date_time_ymd(2026, 11, 24)),
    ("for servers", |it| it.extended_key_usages = vec![Purpose::ServerAuth]),
    ("what is critical and unknown", |it| it.custom_extensions = vec![critical()]),
];

#[test]
fn those_who_may_not_sign_vouch_for_nobody() {
    let good = root(|_| ());
    assert!(believes(&[good.der()], &[&leaf(&good, |_| ())]));
    for (what, change) in NO_ISSUER {
        let bad = root(change);
        assert!(!believes(&[bad.der()], &[&leaf(&bad, |_| ())]), "{what}");
        // Neither does it beside a good one of the same name.
        assert!(!believes(&[good.der(), bad.der()], &[&leaf(&bad, |_| ())]), "{what}");
        assert!(believes(&[bad.der(), good.der()], &[&leaf(&good, |_| ())]), "{what}");
        // With version 1 below it is no different.
        let old = first_version(&leaf(&bad, |_| ()), bad.key(), ECDSA_SHA256);
        assert!(!believes(&[bad.der()], &[&old]), "{what}");
    }
}

#[test]
fn those_between_must_be_able_to_sign_as_well() {
    let root = root(|_| ());
    let between = below(&root, |_| ());
    let shown = leaf(&between, |_| ());
    assert!(believes(&[root.der()], &[&shown, between.der()]));
    assert!(!believes(&[root.der()], &[&shown]), "nobody has heard of it");
    assert!(believes(&[between.der()], &[&shown]), "it is trusted by itself");
    for (what, change) in NO_ISSUER {
        let between = below(&root, change);
        assert!(!believes(&[root.der()], &[&leaf(&between, |_| ()), between.der()]), "{what}");
    }
    let old = first_version(between.der(), root.key(), ECDSA_SHA256);
    assert!(!believes(&[root.der()], &[&shown, &old]), "version 1 is an authority only if it is trusted itself");
}

/// 2.5.29.`number`, critical.
fn of_policy(number: u64, content: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, number], content.to_vec());
    extension.set_criticality(true);
    extension
}

// API-021, API-190: parser.go (processExtensions) understands 36, 33 and 54; verify.go (policiesValid) leaves the trust anchor out.
#[test]
fn authority_with_policies_vouches() {
    let extensions: [(u64, &[u8]); 3] =
        [(36, &[0x30, 3, 0x81, 1, 0]), (54, &[2, 1, 0]), (33, &[0x30, 0x0c, 0x30, 0x0a, 6, 3, 0x2a, 3, 4, 6, 3, 0x2a, 3, 5])];
    for (number, content) in extensions {
        let root = root(|it| it.custom_extensions = vec![of_policy(number, content)]);
        assert!(believes(&[root.der()], &[&leaf(&root, |_| ())]), "{number}");
        assert!(believes(&[root.der()], &[root.der()]), "{number}");
    }
}

// API-021: parser.go (processExtensions), case 17: critical names of which none is understood are unhandled.
#[test]
fn critical_names_of_which_none_is_understood_are_refused() {
    // otherName 1.2.3.4: UTF8String "x"; and the same with dNSName "x".
    let other = [0xa0, 0x0a, 6, 3, 0x2a, 3, 4, 0xa0, 3, 0x0c, 1, b'x'];
    let dns = [0x82, 1, b'x'];
    let sequence = |names: &[&[u8]]| {
        let names = names.concat();
        [&[0x30, u8::try_from(names.len()).unwrap()][..], &names].concat()
    };
    let root = root(|_| ());
    for (names, good) in [(sequence(&[&other]), false), (sequence(&[&other, &dns]), true)] {
        let shown = leaf(&root, |it| {
            it.subject_alt_names.clear();
            it.custom_extensions = vec![of_policy(17, &names)];
        });
        assert_eq!(believes(&[root.der()], &[&shown]), good, "under an authority");
        assert_eq!(believes(&[&shown], &[&shown]), good, "trusted itself");
    }
}

// verify.go bounds signature checks at 100 (maxChainSignatureChecks); with nine of one name a path-building library tries 60,480 orders of
// them, and reads all that was sent for each.
#[test]
fn what_is_sent_along_costs_little_and_hides_nothing() {
    let strangers: Vec<Issuer> = (0..9).map(|_| root(|it| it.distinguished_name.push(DnType::CommonName, "X"))).collect();
    let strangers: Vec<_> = strangers.iter().map(|it| it.der().clone()).collect();
    let unknown = root(|it| it.distinguished_name.push(DnType::CommonName, "X"));
    let (root, rubbish) = (root(|_| ()), leaf(&root(|_| ()), |_| ()));
    let upper = below(&root, |_| ());
    let lower = below(&upper, |it| it.distinguished_name.push(DnType::CommonName, "lower"));
    let (shown, unknown) = (leaf(&lower, |_| ()), leaf(&unknown, |_| ()));
    let mut sent = vec![rubbish; 280];
    sent.extend(strangers);
    assert_eq!(between(&unknown, &sent).len(), MOST_BETWEEN);
    assert!(of(&[root.der()]).verify(&unknown, &sent, Usage::Client, now()).is_err());
    sent.extend([upper.der().clone(), lower.der().clone(), lower.der().clone(), CertificateDer::from(vec![1, 2, 3])]);
    assert_eq!(between(&shown, &sent), [lower.der().clone(), upper.der().clone()]);
    assert!(of(&[root.der()]).verify(&shown, &sent, Usage::Client, now()).is_ok());
}

#[test]
fn path_is_no_longer_than_each_of_it_allows() {
    let limited = |most| move |it: &mut CertificateParams| it.is_ca = IsCa::Ca(BasicConstraints::Constrained(most));
    for (most, allowed) in [(0, [true, false, false]), (1, [true, true, false]), (2, [true, true, true])] {
        let root = root(limited(most));
        let (first, second) = (below(&root, |_| ()), below(&root, |_| ()));
        let lowest = below(&second, |it| it.distinguished_name.push(DnType::CommonName, "lowest"));
        let found = [
            believes(&[root.der()], &[&leaf(&root, |_| ())]),
            believes(&[root.der()], &[&leaf(&first, |_| ()), first.der()]),
            believes(&[root.der()], &[&leaf(&lowest, |_| ()), lowest.der(), second.der()]),
        ];
        assert_eq!(found, allowed, "{most}");
    }
}

#[test]
fn authority_that_was_renewed_vouches_though_its_old_certificate_is_over() {
    let key = KeyPair::generate().unwrap();
    let again = KeyPair::try_from(key.serialize_der()).unwrap();
    let old = CertifiedIssuer::self_signed(issuer_params(NO_ISSUER[4].1), key).unwrap();
    let new = CertifiedIssuer::self_signed(issuer_params(|_| ()), again).unwrap();
    let shown = leaf(&old, |_| ());
    assert!(!believes(&[old.der()], &[&shown]));
    assert!(believes(&[old.der(), new.der()], &[&shown]) && believes(&[new.der(), old.der()], &[&shown]));
}

#[test]
fn purpose_of_the_shown_is_the_asked_one_or_any() {
    let root = root(|_| ());
    let with = |purposes: &[Purpose]| leaf(&root, |it| it.extended_key_usages = purposes.to_vec());
    for (purposes, is_client, is_server) in [
        (&[][..], true, true),
        (&[Purpose::ClientAuth], true, false),
        (&[Purpose::ServerAuth], false, true),
        (&[Purpose::ServerAuth, Purpose::ClientAuth], true, true),
        (&[Purpose::CodeSigning], false, false),
        (&[Purpose::Any], true, true),
        (&[Purpose::CodeSigning, Purpose::Any], true, true),
    ] {
        let (shown, roots) = (with(purposes), of(&[root.der()]));
        let holds = |usage| roots.verify(&shown, &[], usage, now()).is_ok();
        assert_eq!((holds(Usage::Client), holds(Usage::Server)), (is_client, is_server), "{purposes:?}");
    }
}

// verify.go: `if opts.Roots.contains(c)`: a client, or an API server, that is pinned.
#[test]
fn certificate_among_the_authorities_counts_as_itself() {
    let pinned: [(&str, Change, bool); 8] = [
        ("CA:TRUE", |_| (), true),
        ("CA:FALSE", |it| it.is_ca = IsCa::ExplicitNoCa, true),
        ("no basic constraints", |it| (it.is_ca, it.key_usages) = (IsCa::NoCa, Vec::new()), true),
        ("for clients", |it| it.extended_key_usages = vec![Purpose::ClientAuth], true),
        ("for servers", |it| it.extended_key_usages = vec![Purpose::ServerAuth], false),
        ("over", |it| it.not_after = date_time_ymd(2026, 11, 23), false),
        ("not begun", |it| it.not_before = date_time_ymd(2026, 11, 24), false),
        ("what is critical and unknown", |it| it.custom_extensions = vec![critical()], false),
    ];
    let other = root(|_| ());
    for (what, change, expected) in pinned {
        let pinned = root(change);
        assert_eq!(believes(&[pinned.der()], &[pinned.der()]), expected, "{what}");
        assert_eq!(believes(&[other.der(), pinned.der()], &[pinned.der()]), expected, "{what}");
        assert!(!believes(&[other.der()], &[pinned.der()]), "{what}: nobody pinned it");
    }
    let old = first_version(other.der(), other.key(), ECDSA_SHA256);
    assert!(believes(&[&old], &[&old]));
    // It is the certificate that counts, not its name and key.
    assert!(!believes(&[&old], &[other.der()]));
}

// What `openssl x509 -req` makes without extensions. Go: `u.crt under ca.crt version 1 -> <nil>`.
#[test]
fn version_one_holds_right_under_an_authority() {
    let (root, stranger) = (root(|_| ()), root(|_| ()));
    let like = leaf(&root, |_| ());
    let shown = first_version(&like, root.key(), ECDSA_SHA256);
    assert!(believes(&[root.der()], &[&shown]));
    assert!(of(&[root.der()]).verify(&shown, &[], Usage::Server, now()).is_ok());
    assert!(!believes(&[], &[&shown]));
    assert!(!believes(&[stranger.der()], &[&shown]), "another key of the same name");
    assert!(!believes(&[root.der()], &[&first_version(&like, stranger.key(), ECDSA_SHA256)]));
    let named = below(&root, |_| ());
    assert!(!believes(&[root.der()], &[&first_version(&leaf(&named, |_| ()), root.key(), ECDSA_SHA256)]), "another name");
    for (what, change) in &NO_ISSUER[4..6] {
        assert!(!believes(&[root.der()], &[&first_version(&leaf(&root, change), root.key(), ECDSA_SHA256)]), "{what}");
    }
    // One bit of anything.
    for at in 0..shown.len() {
        let mut torn = shown.to_vec();
        torn[at] ^= 1;
        assert!(!believes(&[root.der()], &[&CertificateDer::from(torn)]), "{at}");
    }
    let mut longer = shown.to_vec();
    longer.push(0);
    assert!(!believes(&[root.der()], &[&CertificateDer::from(longer)]));
    // ecdsa-with-SHA1: what it says is what is verified.
    let sha1 = [0x30, 0x09, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
    assert!(!believes(&[root.der()], &[&first_version(&like, root.key(), &sha1)]));
    // Those between are not followed: see the module's head.
    assert!(!believes(&[root.der()], &[&first_version(&leaf(&named, |_| ()), named.key(), ECDSA_SHA256), named.der()]));
}

#[test]
fn authority_of_version_one_vouches_unless_it_is_over() {
    let (root, over) = (root(|_| ()), root(NO_ISSUER[4].1));
    let old = first_version(root.der(), root.key(), ECDSA_SHA256);
    assert!(believes(&[&old], &[&leaf(&root, |_| ())]));
    assert!(believes(&[&old], &[&first_version(&leaf(&root, |_| ()), root.key(), ECDSA_SHA256)]));
    let old = first_version(over.der(), over.key(), ECDSA_SHA256);
    assert!(!believes(&[&old], &[&leaf(&over, |_| ())]));
}

#[test]
fn what_is_no_certificate_is_passed_over() {
    let root = root(|_| ());
    let some = of(&[&CertificateDer::from(vec![0x30, 0x00]), root.der(), &CertificateDer::from(Vec::new())]);
    assert_eq!(some.len(), 1);
    assert!(some.verify(&leaf(&root, |_| ()), &[], Usage::Client, now()).is_ok());
    assert!(some.verify(&CertificateDer::from(vec![0x30, 0x00]), &[], Usage::Client, now()).is_err());
}
