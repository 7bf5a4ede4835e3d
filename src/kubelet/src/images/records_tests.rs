use super::*;
use crate::action::Action;
use crate::failure::FailureKind;
use crate::out::Ledger;

fn at(seconds: u64) -> Now {
    let wall = jiff::Timestamp::from_second(1_700_000_000 + i64::try_from(seconds).unwrap()).unwrap();
    Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall }
}

/// Records, and the disk that they lie on.
struct Bench {
    records: PullRecords,
    ledger: Ledger,
    disk: BTreeMap<String, Vec<u8>>,
    fails: bool,
}

impl Bench {
    fn new(disk: BTreeMap<String, Vec<u8>>) -> Self {
        Self { records: PullRecords::new(Some("/r")), ledger: Ledger::default(), disk, fails: false }
    }

    fn asked(&mut self, seconds: u64) -> Vec<Action> {
        let (mut actions, mut recorded) = (Vec::new(), Vec::new());
        self.records.due(at(seconds), &mut Out::new(&mut self.ledger, &mut actions, &mut recorded));
        actions
    }

    fn answer(&mut self, seconds: u64, action: Action) {
        let outcome = match action.call {
            _ if self.fails => Err(Failure::new(FailureKind::Other, "no space left on device")),
            Call::Host(HostCall::ReadDirectory { path, prefix }) => {
                let inside = |(name, bytes): (&String, &Vec<u8>)| {
                    let name = name.strip_prefix(&format!("{path}/"))?;
                    let contents = Ok(Sensitive::new(bytes.clone()));
                    name.starts_with(&prefix).then(|| FileRead { name: name.to_owned(), contents })
                };
                Ok(HostReply::Files(self.disk.iter().filter_map(inside).collect()))
            }
            Call::Host(HostCall::WriteRecord { path, contents }) => {
                self.disk.insert(path, contents.into_inner());
                Ok(HostReply::Done)
            }
            Call::Host(HostCall::RemoveFile { path }) => {
                self.disk.remove(&path);
                Ok(HostReply::Done)
            }
            other => panic!("{other:?}"),
        };
        self.records.done(at(seconds), action.id, outcome);
    }

    fn settle(&mut self, seconds: u64) {
        loop {
            let actions = self.asked(seconds);
            if actions.is_empty() {
                return;
            }
            for action in actions {
                self.answer(seconds, action);
            }
        }
    }

    fn read(disk: BTreeMap<String, Vec<u8>>) -> Self {
        let mut bench = Self::new(disk);
        bench.settle(0);
        bench
    }
}

fn secret_credential(uid: &str, hash: &str) -> Credential {
    let coordinates = Coordinates { namespace: "default".into(), name: "pull-secret".into(), uid: uid.into() };
    Credential { auth: Sensitive::default(), hash: hash.into(), source: Source::Secret(coordinates) }
}

// POD-208: testdata of pkg/kubelet/images/pullmanager, names and contents.
const RECORD: &str = r#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1","lastUpdatedTime":"2024-10-21T12:26:40Z","imageRef":"testimageref","credentialMapping":{"docker.io/testing/test":{"kubernetesSecrets":[{"uid":"testsecretuid","namespace":"default","name":"pull-secret","credentialHash":"testsecrethash"}]}}}"#;
const RECORD_FILE: &str = "/r/image_manager/pulled/sha256-b3c0cc4278800b03a308ceb2611161430df571ca733122f0a40ac8b9792a9064";
const ALPHA: &str = r#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1alpha1","lastUpdatedTime":"2025-06-21T12:26:40Z","imageRef":"testimage-anonpull-alpha","credentialMapping":{"docker.io/testing/test":{"nodePodsAccessible":true}}}"#;
const ALPHA_FILE: &str = "/r/image_manager/pulled/sha256-dd1dd8dc6a329b7e1c2e43951302b23a047cb20fd3e10090e4ce7e8396035405";
const BROKEN: &str = r#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1alpha1","imageRef":"testbrokenrecord":"credentialMapping":{}"#;
const BROKEN_FILE: &str = "/r/image_manager/pulled/sha256-e766e4624f9bc4d3847d6c5b470d9d5362cc8d0c250bd9572daf95278e044263";
const INTENT: &str =
    "{\"kind\":\"ImagePullIntent\",\"apiVersion\":\"kubelet.config.k8s.io/v1beta1\",\"image\":\"docker.io/testing/test:latest\"}\n";
const INTENT_FILE: &str = "/r/image_manager/pulling/sha256-aef2af226629a35d5f3ef0fdbb29fdbebf038d0acd8850590e8c48e1e283aa56";

fn disk(files: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect()
}

// POD-208: what a kubelet left is taken over: records, those of the older version, those that cannot be read, intents.
#[test]
fn records_of_a_kubelet_are_read() {
    let files = [(RECORD_FILE, RECORD), (ALPHA_FILE, ALPHA), (BROKEN_FILE, BROKEN), (INTENT_FILE, INTENT)];
    let mut bench = Bench::new(disk(&files));
    assert!(!bench.records.can_tell());
    bench.settle(0);
    let records = &bench.records;
    let Known::By(Some(known)) = records.known("docker.io/testing/test:1", "testimageref") else { panic!() };
    assert_eq!(known.kubernetes_secrets[0].credential_hash, "testsecrethash");
    assert_eq!(records.known("docker.io/other/test:1", "testimageref"), Known::By(None));
    let Known::By(Some(known)) = records.known("docker.io/testing/test", "testimage-anonpull-alpha") else { panic!() };
    assert!(known.node_pods_accessible);
    assert_eq!(records.known("x", "testbrokenrecord"), Known::Unreadable);
    assert_eq!(records.known("docker.io/testing/test:latest", "elsewhere"), Known::Pulled);
    assert_eq!(records.known("testing/test", "elsewhere"), Known::Pulled, "by its short name as well");
    assert_eq!(records.known("x", "elsewhere"), Known::Nothing);
    // recordsVersionMigration
    assert_eq!(String::from_utf8_lossy(&bench.disk[ALPHA_FILE]).trim_end(), ALPHA.replace("v1alpha1", "v1beta1"));
}

// POD-208: the intent is there before the pull, and goes after the record has come; both are as a kubelet writes them.
#[test]
fn intent_comes_before_the_pull_and_the_record_before_it_goes() {
    let mut bench = Bench::read(BTreeMap::new());
    let image = "docker.io/testing/test:latest";
    bench.records.intend(image);
    assert_eq!(bench.records.intent(image), IntentState::Writing);
    bench.settle(1);
    assert_eq!(bench.records.intent(image), IntentState::Written);
    assert_eq!(bench.disk, disk(&[(INTENT_FILE, INTENT)]));
    bench.records.pulled(at(2), image, "testimageref", Some(&secret_credential("testsecretuid", "testsecrethash")));
    let actions = bench.asked(2);
    assert_eq!(actions.len(), 1, "the record first: {actions:?}");
    bench.answer(2, actions.into_iter().next().unwrap());
    assert!(bench.disk.contains_key(INTENT_FILE));
    bench.settle(2);
    let written = RECORD.replace("2024-10-21T12:26:40Z", "2023-11-14T22:13:22Z") + "\n";
    assert_eq!(bench.disk, disk(&[(RECORD_FILE, &written)]));
}

// POD-208: "merge with an existing image secret", "node-accessible overrides all secrets", "new creds have the same secret coordinates but a
// different hash" (image_pull_manager_test.go).
#[test]
fn what_more_pulls_tell_is_merged() {
    let mut bench = Bench::read(disk(&[(RECORD_FILE, RECORD)]));
    let image = "docker.io/testing/test:latest";
    let known = |bench: &Bench| match bench.records.known(image, "testimageref") {
        Known::By(Some(known)) => known.clone(),
        other => panic!("{other:?}"),
    };
    bench.records.pulled(at(1), image, "testimageref", Some(&secret_credential("testsecretuid", "other")));
    assert_eq!(known(&bench).kubernetes_secrets.len(), 1);
    assert_eq!(known(&bench).kubernetes_secrets[0].credential_hash, "other");
    bench.records.pulled(at(1), image, "testimageref", Some(&secret_credential("another", "h")));
    let uids: Vec<String> = known(&bench).kubernetes_secrets.into_iter().map(|s| s.uid).collect();
    assert_eq!(uids, ["another", "testsecretuid"]);
    bench.records.pulled(at(1), image, "testimageref", None);
    assert_eq!(known(&bench), Credentials { node_pods_accessible: true, ..Credentials::default() });
    bench.records.pulled(at(1), image, "testimageref", Some(&secret_credential("another", "h")));
    assert!(known(&bench).node_pods_accessible && known(&bench).kubernetes_secrets.is_empty());
}

// POD-208: an intent that cannot be written stops the pull; a record that cannot be is tried again, and the intent stays till then.
#[test]
fn what_cannot_be_written_is_safe_and_tried_again() {
    let mut bench = Bench::read(BTreeMap::new());
    bench.fails = true;
    bench.records.intend("a");
    bench.settle(1);
    assert_eq!(bench.records.intent("a"), IntentState::Failed("no space left on device".into()));
    bench.records.release("a");
    bench.fails = false;
    bench.settle(1);
    bench.records.intend("a");
    bench.settle(1);
    bench.fails = true;
    bench.records.pulled(at(2), "a", "ref", None);
    bench.settle(2);
    assert_eq!(bench.records.deadline(), Some(at(3).mono));
    bench.settle(3);
    assert_eq!(bench.records.deadline(), Some(at(5).mono), "each pause is twice as long");
    bench.fails = false;
    assert_eq!(bench.disk.len(), 1);
    bench.settle(5);
    assert_eq!(bench.disk.keys().filter(|path| path.contains("/pulled/")).count(), 1);
    assert_eq!(bench.disk.len(), 1);
    assert_eq!(bench.records.deadline(), None);
}

// POD-208: TestPullManager_initialize: what was under way when the agent died is known to be pulled, by nobody in particular.
#[test]
fn intent_that_was_left_becomes_a_record_of_nobody() {
    let mut bench = Bench::read(disk(&[(INTENT_FILE, INTENT)]));
    let image = Image { id: "testimageref".into(), repo_tags: vec!["docker.io/testing/test:latest".into()], ..Image::default() };
    bench.records.listed(at(1), &[image]);
    bench.settle(1);
    assert_eq!(bench.disk.keys().collect::<Vec<_>>(), [RECORD_FILE]);
    assert_eq!(bench.records.known("docker.io/testing/test:latest", "testimageref"), Known::By(None));
}

// POD-208: TestFileBasedImagePullManager_PruneUnknownRecords: of images that are gone, and not of those that have just come.
#[test]
fn record_goes_with_its_image() {
    let mut bench = Bench::read(disk(&[(RECORD_FILE, RECORD)]));
    let image = Image { id: "testimageref".into(), ..Image::default() };
    bench.records.listed(at(900), &[image]);
    bench.settle(900);
    assert_eq!(bench.disk.len(), 1);
    bench.records.pulled(at(1000), "docker.io/testing/test", "testimageref", None);
    bench.records.listed(at(1100), &[]);
    bench.settle(1100);
    assert_eq!(bench.disk.len(), 1);
    bench.records.listed(at(1300), &[]);
    bench.settle(1300);
    assert!(bench.disk.is_empty());
}

// POD-208: records that cannot be read prove nothing: everybody shows credentials until they can be.
#[test]
fn unreadable_directory_makes_everything_pulled() {
    let mut bench = Bench::new(BTreeMap::new());
    bench.fails = true;
    bench.settle(0);
    assert!(bench.records.can_tell());
    assert_eq!(bench.records.known("x", "ref"), Known::Unreadable);
    bench.fails = false;
    bench.settle(2);
    assert_eq!(bench.records.known("x", "ref"), Known::Nothing);
}

// Records and intents are files: another agent wrote them, or a disk that was full.
#[test]
fn mangled_record_is_known_or_unreadable() {
    let kept = br#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1","lastUpdatedTime":"2026-11-23T08:00:00Z","imageRef":"ref","credentialMapping":{"x":{"nodePodsAccessible":true,"kubernetesSecrets":[{"uid":"u","namespace":"n","name":"s","credentialHash":"h"}],"kubernetesServiceAccounts":[{"uid":"u","namespace":"n","name":"s"}]}}}"#;
    let intent = br#"{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v1beta1","image":"x:1"}"#;
    crate::fuzz_tests::mangled::each_of("record", 4, &[kept, intent], |input| {
        let file = |folder: &str, image: &str| (format!("/r/image_manager/{folder}/{}", file_of(image)), input.to_vec());
        let mut bench = Bench::new([file("pulled", "ref"), file("pulling", "x:1")].into());
        bench.settle(0);
        let _known = (bench.records.known("x:1", "ref"), bench.records.intent("x:1"));
        bench.records.listed(at(1000), &[]);
        bench.settle(1000);
    });
}

// Issue 10 (pull-intents), INV-09: a tenant's pulls that nobody sees the end of fill neither the disk nor memory, over restarts as well.
#[test]
fn pulls_that_nobody_saw_the_end_of_are_bounded_in_number_and_time() {
    let mut bench = Bench::read(BTreeMap::new());
    let image = |number: u64| format!("registry.example/never:{number}");
    let most = MOST_DOUBTED as u64;
    for number in 0..most + 50 {
        bench.records.intend(&image(number));
        bench.settle(number);
        assert!(bench.disk.len() <= MOST_DOUBTED + 1);
        bench.records.leave(at(number), &image(number));
        bench.settle(number);
    }
    assert_eq!(bench.disk.len(), MOST_DOUBTED);
    assert_eq!(bench.records.known(&image(49), "elsewhere"), Known::Nothing, "the oldest are forgotten");
    assert_eq!(bench.records.known(&image(50), "elsewhere"), Known::Pulled);
    // One that goes on is no doubt, however old.
    bench.records.intend(&image(51));
    bench.records.intend(&image(9999));
    bench.records.leave(at(most + 60), &image(9999));
    bench.settle(most + 60);
    assert_eq!(bench.records.known(&image(51), "elsewhere"), Known::Pulled);
    assert_eq!(bench.records.known(&image(9999), "elsewhere"), Known::Pulled);
    let mut bench = Bench::read(std::mem::take(&mut bench.disk));
    bench.records.listed(at(1), &[]);
    bench.settle(DOUBTED.as_secs());
    assert!(bench.disk.len() >= MOST_DOUBTED);
    bench.records.listed(at(DOUBTED.as_secs() + 1), &[]);
    bench.settle(DOUBTED.as_secs() + 1);
    assert!(bench.disk.is_empty(), "{}", bench.disk.len());
}
