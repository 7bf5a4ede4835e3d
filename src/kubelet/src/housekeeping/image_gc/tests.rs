use super::*;
use crate::config::Config;
use crate::failure::FailureKind;
use crate::out::Ledger;

const GIB: u64 = 1 << 30;
const LIMIT: Duration = Duration::from_secs(120);

/// A collector with a runtime that has these images on a filesystem of 100 GiB.
struct Bench {
    gc: ImageGc,
    ledger: Ledger,
    config: Images,
    images: Vec<Image>,
    in_use: BTreeSet<String>,
    capacity: u64,
    available: u64,
    fails: bool,
    recorded: Vec<Recorded>,
}

fn at(seconds: u64) -> Now {
    Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall: jiff::Timestamp::UNIX_EPOCH }
}

fn image(id: &str) -> Image {
    Image { id: id.to_owned(), size: 10 * GIB, ..Image::default() }
}

enum Reply {
    Cri(Result<CriReply, Failure>),
    Host(HostReply),
}

impl Bench {
    fn new(images: &[&str], available: u64) -> Self {
        Self {
            gc: ImageGc::default(),
            ledger: Ledger::default(),
            config: Config::new("n1").images,
            images: images.iter().map(|id| image(id)).collect(),
            in_use: BTreeSet::new(),
            capacity: 100 * GIB,
            available: available * GIB,
            fails: false,
            recorded: Vec::new(),
        }
    }

    /// Does all that is due at that time, and what follows from it. Answers the images that were removed, in order.
    fn at(&mut self, seconds: u64) -> Vec<String> {
        let (now, mut removed, mut asked) = (at(seconds), Vec::new(), Vec::new());
        loop {
            let in_use = || {
                let mut names = InUse::default();
                self.in_use.iter().for_each(|name| names.add(name));
                names
            };
            let mut out = Out::new(&mut self.ledger, &mut asked, &mut self.recorded);
            self.gc.due(now, &self.config, LIMIT, in_use, &mut out);
            if asked.is_empty() {
                return removed;
            }
            for action in std::mem::take(&mut asked) {
                let outcome = self.answer(action.call, &mut removed);
                let mut out = Out::new(&mut self.ledger, &mut asked, &mut self.recorded);
                let handed_back = match outcome {
                    Reply::Cri(outcome) => self.gc.cri_done(now, action.id, outcome, &mut out).is_some(),
                    Reply::Host(reply) => self.gc.host_done(action.id, Ok(reply)).is_some(),
                };
                assert!(!handed_back);
            }
        }
    }

    fn answer(&mut self, call: Call, removed: &mut Vec<String>) -> Reply {
        let on = |path: &str| FsUsage { mountpoint: path.to_owned(), ..FsUsage::default() };
        Reply::Cri(Ok(match call {
            Call::Cri(CriCall::ListImages) => CriReply::Images(self.images.clone()),
            Call::Cri(CriCall::ImageFsInfo) if self.fails => {
                return Reply::Cri(Err(Failure::new(FailureKind::Unavailable, "connection refused")));
            }
            Call::Cri(CriCall::ImageFsInfo) => CriReply::ImageFs(vec![on("/first"), on("/second")]),
            Call::Cri(CriCall::RemoveImage { image }) => {
                self.images.retain(|one| one.id != image);
                self.available += 10 * GIB;
                removed.push(image);
                CriReply::Done
            }
            Call::Host(HostCall::FsUsage { path }) => {
                assert_eq!(path, "/first");
                let fill = FsUsage { capacity: self.capacity, available: self.available, ..FsUsage::default() };
                return Reply::Host(HostReply::Fs(fill));
            }
            other => panic!("{other:?}"),
        }))
    }

    fn told(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.recorded).into_iter().map(|event| (event.reason, event.message)).collect()
    }
}

// POD-210, CRI-036, CRI-037: every five minutes; from 85 % on down to 80 %, those first that were used longest ago.
#[test]
fn unused_images_go_when_their_filesystem_is_full() {
    let mut bench = Bench::new(&["a", "b", "c", "d"], 15);
    assert!(bench.at(1).is_empty());
    let rounds = [(301, "a c d", "b"), (601, "a", "c"), (901, "", "d"), (1201, "", "a")];
    for (seconds, in_use, removed) in rounds {
        bench.available = 15 * GIB;
        bench.in_use = in_use.split_whitespace().map(str::to_owned).collect();
        assert_eq!(bench.at(seconds), [removed]);
    }
    assert_eq!(bench.told(), []);
}

// POD-210
#[test]
fn images_stay_while_there_is_room() {
    let mut bench = Bench::new(&["a"], 16);
    assert!(bench.at(1).is_empty() && bench.at(301).is_empty());
}

// POD-210, CRI-036: neither what is pinned, nor what a container uses by whatever name, nor what has just come.
#[test]
fn image_that_is_needed_stays_however_full_it_is() {
    let mut bench = Bench::new(&["pinned", "sha256:used", "tagged", "new"], 1);
    bench.images[0].pinned = true;
    bench.images[2].repo_tags = vec!["registry.example/app:1".to_owned()];
    bench.in_use = ["sha256:used".to_owned(), "registry.example/app:1".to_owned()].into();
    let new = bench.images.pop().unwrap();
    bench.at(1);
    bench.images.push(new);
    bench.gc.changed(at(290));
    bench.at(293);
    assert!(bench.at(301).is_empty());
    let told = bench.told();
    assert_eq!(told.len(), 1);
    // The words of GarbageCollect (image_gc_manager.go).
    let message = "Insufficient free disk space on the node's image filesystem (99% of 100.0 GiB used). Failed to free sufficient \
                   space by deleting unused images (freed 0 bytes). Investigate disk usage, as it could be used by active images, \
                   logs, volumes, or other data.";
    assert_eq!(told[0], ("FreeDiskSpaceFailed".to_owned(), message.to_owned()));
    assert_eq!(bench.at(601), ["new"]);
}

// POD-210: imageMaximumGCAge
#[test]
fn image_that_nobody_has_used_for_too_long_goes_in_any_case() {
    let mut bench = Bench::new(&["old", "used"], 50);
    bench.config.gc_max_age = Some(Duration::from_secs(1000));
    bench.in_use = ["used".to_owned()].into();
    let removed: Vec<Vec<String>> = [1, 301, 601, 901, 1201].map(|seconds| bench.at(seconds)).into();
    assert_eq!(removed, [vec![], vec![], vec![], vec![], vec!["old".to_owned()]]);
}

// POD-210: what keeps the filesystem from being looked at is told from the second time on; one without a size at once.
#[test]
fn trouble_with_the_image_filesystem_is_told() {
    let mut bench = Bench::new(&["a"], 50);
    bench.at(1);
    bench.fails = true;
    bench.at(301);
    assert_eq!(bench.told(), []);
    bench.at(601);
    assert_eq!(bench.told(), [("ImageGCFailed".to_owned(), "connection refused".to_owned())]);
    bench.fails = false;
    bench.capacity = 0;
    bench.at(901);
    // kubelet.go (StartGarbageCollection): whatever fails again is told of as such besides.
    let why = || "invalid capacity 0 on image filesystem".to_owned();
    assert_eq!(bench.told(), [("InvalidDiskCapacity".to_owned(), why()), ("ImageGCFailed".to_owned(), why())]);
}

// POD-210: kubelet.go (StartGarbageCollection): a collection that frees too little has failed; the second in a row is told of as such, until
// one succeeds.
#[test]
fn collection_that_goes_on_freeing_too_little_is_told() {
    let mut bench = Bench::new(&["a"], 1);
    bench.in_use = ["a".to_owned()].into();
    bench.at(1);
    let mut reasons = |seconds| {
        bench.at(seconds);
        bench.told().into_iter().map(|(reason, _)| reason).collect::<Vec<_>>()
    };
    assert_eq!(reasons(301), ["FreeDiskSpaceFailed"]);
    assert_eq!(reasons(601), ["FreeDiskSpaceFailed", "ImageGCFailed"]);
    bench.available = 50 * GIB;
    let mut reasons = |seconds| {
        bench.at(seconds);
        bench.told().len()
    };
    assert_eq!(reasons(901), 0);
    bench.available = GIB;
    bench.at(1201);
    assert_eq!(bench.told().len(), 1);
}

// N11, POD-210: an image is used by its own name, not by another registry's; a short name means the default registry's.
#[test]
fn image_of_another_registry_is_not_in_use() {
    let mut bench = Bench::new(&["a", "b"], 5);
    bench.images[0].repo_tags = vec!["mirror.example/library/nginx:1".to_owned()];
    bench.images[1].repo_tags = vec!["docker.io/library/nginx:1".to_owned()];
    bench.in_use = ["nginx:1".to_owned()].into();
    bench.at(1);
    assert_eq!(bench.at(301), ["a"]);
}

// N11, POD-210: freeOldImages: what the agent has not seen in use goes once it has run that long, however new it is.
#[test]
fn image_that_was_never_used_goes_with_the_old_ones() {
    let mut bench = Bench::new(&["old"], 50);
    bench.config.gc_max_age = Some(Duration::from_secs(1000));
    bench.at(1);
    bench.images.push(image("new"));
    bench.gc.changed(at(1190));
    assert_eq!(bench.at(1193), ["old", "new"]);
}

// S24: a filesystem that claims to have more available than it holds is not full, whatever the arithmetic.
#[test]
fn filesystem_with_more_room_than_it_has_is_not_full() {
    let mut bench = Bench::new(&["a"], 150);
    bench.at(1);
    assert!(bench.at(301).is_empty());
    assert_eq!(bench.told(), []);
}

// S3: a pod that cannot be read runs all the same; what could be read of its spec names its images.
#[test]
fn image_that_a_spec_names_is_in_use() {
    let spec = serde_json::json!({"containers": [{"name": "c", "image": "kept:1"}], "volumes": [{"name": "v", "image": {"reference": "files:1"}}]});
    let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {}, "spec": spec})).unwrap();
    let used = InUse::of(std::iter::empty()).and_of(std::iter::once(pod));
    let image = |tag: &str| Image { repo_tags: vec![tag.to_owned()], ..Image::default() };
    assert!(used.has(&image("docker.io/library/kept:1")) && used.has(&image("docker.io/library/files:1")));
    assert!(!used.has(&image("docker.io/library/other:1")));
}
