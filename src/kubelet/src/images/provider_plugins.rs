//! Decides when a credential provider plugin is asked about an image, and for how long and for what its answer counts.
//! Upstream: pkg/credentialprovider/plugin/{plugin,plugins}.go.
//! Differs: a plugin is asked about one image at a time; at most 1000 answers of a plugin are kept; service account tokens are not sent.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::docker_config::{DockerConfig, Login};
use super::keyring::urls_match;
use crate::action::{Call, HostCall, Lane};
use crate::config::CredentialProvider;
use crate::event::HostReply;
use crate::failure::Failure;
use crate::ids::ActionId;
use crate::out::{Out, Owner};
use crate::sensitive::Sensitive;
use crate::time::{Mono, Now};

/// What the host gives a plugin is a minute (ExecPlugin); whoever waits for it waits a little longer.
const LIMIT: Duration = Duration::from_secs(70);
const MOST_CACHED: usize = 1000;
/// The key of answers that hold for all images.
const GLOBAL: &str = "<global>";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    kind: &'a str,
    api_version: &'a str,
    image: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Response {
    kind: String,
    api_version: String,
    #[serde(default)]
    cache_key_type: String,
    #[serde(default)]
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<BTreeMap<String, Auth>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Auth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

#[derive(Clone)]
struct Cached {
    config: DockerConfig,
    until: Mono,
}

/// One plugin.
pub(super) struct Provider {
    settings: CredentialProvider,
    cache: BTreeMap<String, Cached>,
    asked: Option<(ActionId, String)>,
    waiting: VecDeque<String>,
    /// What it has just said of an image, for those who wait for it.
    fresh: Option<(String, DockerConfig)>,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Provider").field("settings", &self.settings).field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl Provider {
    pub(super) fn new(settings: &CredentialProvider) -> Self {
        let settings = settings.clone();
        Self { settings, cache: BTreeMap::new(), asked: None, waiting: VecDeque::new(), fresh: None }
    }

    /// What the plugin gives for a repository; `None` while it is asked.
    pub(super) fn lookup(&mut self, now: Now, repository: &str, out: &mut Out<'_>) -> Option<DockerConfig> {
        if !self.settings.match_images.iter().any(|pattern| urls_match(pattern, repository)) {
            return Some(DockerConfig::new());
        }
        if let Some((_, config)) = self.fresh.as_ref().filter(|(image, _)| image == repository) {
            return Some(config.clone());
        }
        let cached = |key: &str| self.cache.get(key).filter(|cached| now.mono <= cached.until);
        if let Some(found) = [repository, registry_of(repository), GLOBAL].into_iter().find_map(cached) {
            return Some(found.config.clone());
        }
        let is_asked = self.asked.as_ref().is_some_and(|(_, image)| image == repository);
        if !is_asked && !self.waiting.iter().any(|image| image == repository) {
            self.waiting.push_back(repository.to_owned());
            self.ask(out);
        }
        None
    }

    fn ask(&mut self, out: &mut Out<'_>) {
        if self.asked.is_some() {
            return;
        }
        let Some(image) = self.waiting.pop_front() else { return };
        let settings = &self.settings;
        let request = Request { kind: "CredentialProviderRequest", api_version: &settings.api_version, image: &image };
        let call = HostCall::AskCredentialPlugin {
            executable: settings.executable.clone(),
            arguments: settings.arguments.clone(),
            environment: settings.environment.clone(),
            request: Sensitive::new(serde_json::to_vec(&request).unwrap_or_default()),
        };
        let action = out.issue(Owner::ImageRecords, Lane::Host, LIMIT, Call::Host(call));
        self.asked = Some((action, image));
    }

    /// A call ended. True if it was this one's; what it said is to be looked up now.
    pub(super) fn done(&mut self, now: Now, id: ActionId, outcome: &Result<HostReply, Failure>) -> bool {
        let Some((_, image)) = self.asked.take_if(|(asked, _)| *asked == id) else { return false };
        let config = match outcome {
            Ok(HostReply::Output(output)) => self.answered(now, &image, output.reveal()),
            _ => None,
        };
        // Who gave no credentials gives none: the pull is tried all the same.
        self.fresh = Some((image, config.unwrap_or_default()));
        true
    }

    /// Those who waited have looked. What was not cached is forgotten, and the next image is asked about.
    pub(super) fn go_on(&mut self, out: &mut Out<'_>) {
        self.fresh = None;
        self.ask(out);
    }

    fn answered(&mut self, now: Now, image: &str, output: &[u8]) -> Option<DockerConfig> {
        let response: Response = serde_json::from_slice(output).ok()?;
        if response.kind != "CredentialProviderResponse" || response.api_version != self.settings.api_version {
            return None;
        }
        let key = match response.cache_key_type.as_str() {
            "Image" => image,
            "Registry" => registry_of(image),
            "Global" => GLOBAL,
            _ => return None,
        };
        let duration = match &response.cache_duration {
            Some(text) => go_duration(text)?,
            None => self.settings.default_cache_duration,
        };
        let login = |auth: Auth| Login { username: auth.username, password: auth.password, email: String::new() };
        let auth = response.auth.unwrap_or_default();
        let config: DockerConfig = auth.into_iter().map(|(location, auth)| (location, login(auth))).collect();
        if !duration.is_zero() {
            self.cache.retain(|_, cached| now.mono <= cached.until);
            if self.cache.len() >= MOST_CACHED
                && let Some(first) = self.cache.iter().min_by_key(|(_, cached)| cached.until).map(|(key, _)| key.clone())
            {
                self.cache.remove(&first);
            }
            self.cache.insert(key.to_owned(), Cached { config: config.clone(), until: now.mono + duration });
        }
        Some(config)
    }
}

/// parseRegistry
fn registry_of(repository: &str) -> &str {
    repository.split('/').next().unwrap_or_default()
}

/// A duration as Go writes it, `1h2m3.5s`; `None` if it is none. One that is negative is over at once.
fn go_duration(text: &str) -> Option<Duration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let units = [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let (unit, worth) = units.into_iter().find(|(unit, _)| rest[end..].starts_with(unit))?;
        seconds += number * worth;
        rest = &rest[end + unit.len()..];
    }
    (!text.is_empty())
        .then(|| if negative { Duration::ZERO } else { Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::action::Action;
    use crate::failure::FailureKind;
    use crate::out::Ledger;

    struct Bench {
        provider: Provider,
        ledger: Ledger,
    }

    fn at(seconds: u64) -> Now {
        Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall: jiff::Timestamp::UNIX_EPOCH }
    }

    impl Bench {
        fn new() -> Self {
            let provider = Provider::new(&CredentialProvider {
                name: "plugin".to_owned(),
                executable: "/bin/plugin".to_owned(),
                api_version: "credentialprovider.kubelet.k8s.io/v1".to_owned(),
                match_images: vec!["*.registry.io".to_owned()],
                default_cache_duration: Duration::from_secs(60),
                arguments: vec!["get".to_owned()],
                environment: Sensitive::default(),
            });
            Self { provider, ledger: Ledger::default() }
        }

        /// The user for an image, or the request that the plugin gets.
        fn lookup(&mut self, seconds: u64, image: &str) -> Result<Option<String>, Vec<Action>> {
            let (mut actions, mut recorded) = (Vec::new(), Vec::new());
            let mut out = Out::new(&mut self.ledger, &mut actions, &mut recorded);
            let found = self.provider.lookup(at(seconds), image, &mut out);
            found.map(|config| config.into_values().next().map(|login| login.username)).ok_or(actions)
        }

        /// What the plugin gives for the image if it says that.
        fn asked(&mut self, seconds: u64, image: &str, said: Result<serde_json::Value, Failure>) -> Option<String> {
            let actions = self.lookup(seconds, image).unwrap_err();
            let Call::Host(HostCall::AskCredentialPlugin { executable, arguments, request, .. }) = &actions[0].call else {
                panic!()
            };
            assert_eq!((executable.as_str(), arguments.as_slice()), ("/bin/plugin", ["get".to_owned()].as_slice()));
            let request: serde_json::Value = serde_json::from_slice(request.reveal()).unwrap();
            let api_version = "credentialprovider.kubelet.k8s.io/v1";
            assert_eq!(request, json!({"kind": "CredentialProviderRequest", "apiVersion": api_version, "image": image}));
            let outcome = said.map(|said| HostReply::Output(Sensitive::new(said.to_string().into_bytes())));
            assert!(self.provider.done(at(seconds), actions[0].id, &outcome));
            let found = self.lookup(seconds, image).unwrap();
            let (mut actions, mut recorded) = (Vec::new(), Vec::new());
            self.provider.go_on(&mut Out::new(&mut self.ledger, &mut actions, &mut recorded));
            found
        }
    }

    fn response(key: &str, duration: Option<&str>) -> serde_json::Value {
        json!({
            "kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "cacheKeyType": key, "cacheDuration": duration,
            "auth": {"*.registry.io": {"username": "user", "password": "pass"}},
        })
    }

    // POD-206: Test_ProvideWithCacheKeyType.. (plugin_test.go): an answer holds for its image, its registry or all, and as long as it says, or
    // as the configuration says.
    #[test]
    fn answer_counts_for_what_it_says_and_as_long_as_it_says() {
        let user = Some("user".to_owned());
        for (key, other_image, other_registry) in [("Image", false, false), ("Registry", true, false), ("Global", true, true)] {
            let mut bench = Bench::new();
            assert_eq!(bench.asked(0, "test.registry.io/foo/bar", Ok(response(key, None))), user);
            assert_eq!(bench.lookup(60, "test.registry.io/foo/bar").unwrap(), user, "{key}");
            assert!(bench.lookup(61, "test.registry.io/foo/bar").is_err(), "{key}");
            let mut bench = Bench::new();
            assert_eq!(bench.asked(0, "test.registry.io/foo/bar", Ok(response(key, Some("1h0m0s")))), user);
            assert_eq!(bench.lookup(3600, "test.registry.io/foo/bar").unwrap(), user, "{key}");
            assert_eq!(bench.lookup(1, "test.registry.io/other").is_ok(), other_image, "{key}");
            assert_eq!(bench.lookup(1, "else.registry.io/other").is_ok(), other_registry, "{key}");
        }
        let mut bench = Bench::new();
        assert_eq!(bench.asked(0, "test.registry.io/foo", Ok(response("Image", Some("0s")))), user);
        assert_eq!(bench.asked(0, "test.registry.io/foo", Ok(response("Image", Some("0s")))), user, "it is asked again");
    }

    // POD-206: Test_ExecPlugin, Test_decodeResponse (plugin_test.go): failure, another version, another kind, unknown fields and an odd key give
    // no credentials, and are not kept.
    #[test]
    fn failure_is_no_credentials() {
        let with = |field: &str, value: &str| {
            let mut changed = response("Image", None);
            changed[field] = value.into();
            Ok(changed)
        };
        let mut bench = Bench::new();
        for said in [
            Err(Failure::new(FailureKind::Other, "exit status 1")),
            with("apiVersion", "credentialprovider.kubelet.k8s.io/v1beta1"),
            with("kind", "Other"),
            with("more", "x"),
            with("cacheKeyType", "Else"),
        ] {
            assert_eq!(bench.asked(0, "test.registry.io/foo", said), None);
        }
    }

    // POD-206: Test_isImageAllowed, and singleflight: who matches nothing is not asked, and what is being asked is not asked again.
    #[test]
    fn plugin_is_asked_about_images_that_match_one_at_a_time() {
        let mut bench = Bench::new();
        assert_eq!(bench.lookup(0, "registry.io/foo").unwrap(), None);
        let first = bench.lookup(0, "a.registry.io/foo").unwrap_err();
        assert_eq!(bench.lookup(0, "a.registry.io/foo").unwrap_err().len(), 0);
        assert_eq!(bench.lookup(0, "b.registry.io/foo").unwrap_err().len(), 0);
        assert!(bench.provider.done(at(1), first[0].id, &Err(Failure::new(FailureKind::Other, "exit status 1"))));
        let (mut actions, mut recorded) = (Vec::new(), Vec::new());
        bench.provider.go_on(&mut Out::new(&mut bench.ledger, &mut actions, &mut recorded));
        assert_eq!(actions.len(), 1, "the next");
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, seconds) in [("0", 0.0), ("5m0s", 300.0), ("1h2m3.5s", 3723.5), ("1500ms", 1.5), ("-1s", 0.0)] {
            assert_eq!(go_duration(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "5", "x", "5x"] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }

    #[test]
    fn mangled_answer_of_a_plugin_is_logins_or_nothing() {
        let seed = br#"{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Image","cacheDuration":"-1h2m3.5s","auth":{"registry.example":{"username":"u","password":"p"}}}"#;
        let mut bench = Bench::new();
        crate::fuzz_tests::mangled::each("plugin answer", &[seed], |input| {
            let _logins = bench.provider.answered(at(0), "registry.example/a", input);
            let _duration = go_duration(&crate::fuzz_tests::mangled::text(input));
        });
    }
}
