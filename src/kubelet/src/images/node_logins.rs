//! Decides which logins the node itself has: where docker configs are looked for, and for how long one that was read counts.
//! Upstream: pkg/credentialprovider/{config,provider}.go (ReadDockerConfigFile, NewDefaultDockerKeyring).
//! Differs: a file of more than 10 MiB counts as unreadable; if the files cannot be read for a while, what was read before counts on.

use std::time::Duration;

use super::docker_config::{DockerConfig, config_json, dockercfg};
use super::keyring::{Credential, Keyring, Source};
use crate::action::{Call, HostCall, Lane};
use crate::config::Config;
use crate::event::{FileRead, HostReply};
use crate::failure::Failure;
use crate::ids::ActionId;
use crate::out::{Out, Owner};
use crate::time::{Mono, Now};

/// How long what was read counts.
const LIFETIME: Duration = Duration::from_secs(300);
/// How long it counts that the files could not be read.
const AGAIN: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(30);

/// The node's own logins.
#[derive(Debug)]
pub(super) struct NodeLogins {
    /// The newer kind, then the older; of each the first that is one counts.
    newer: Vec<String>,
    older: Vec<String>,
    keyring: Keyring,
    counts_until: Option<Mono>,
    reading: Option<ActionId>,
}

impl NodeLogins {
    pub(super) fn new(config: &Config) -> Self {
        let root = Some(config.paths.root.as_str());
        let (here, home) = (config.paths.working.as_deref(), config.paths.home.as_deref());
        let below = |directories: [Option<&str>; 3], last: &str, name: &str| {
            let found = directories.into_iter().flatten().map(|directory| format!("{}/{name}", directory.trim_end_matches('/')));
            found.chain([last.to_owned()]).collect::<Vec<String>>()
        };
        let docker = home.map(|home| format!("{}/.docker", home.trim_end_matches('/')));
        Self {
            newer: below([root, here, docker.as_deref()], "/.docker/config.json", "config.json"),
            older: below([root, here, home], "/.dockercfg", ".dockercfg"),
            keyring: Keyring::default(),
            counts_until: None,
            reading: None,
        }
    }

    /// The node's credentials for a repository; `None` while the files are read.
    pub(super) fn lookup(&mut self, now: Now, repository: &str, out: &mut Out<'_>) -> Option<Vec<Credential>> {
        if self.counts_until.is_some_and(|until| now.mono < until) {
            return Some(self.keyring.lookup(repository));
        }
        if self.reading.is_none() {
            let paths = self.newer.iter().chain(&self.older).cloned().collect();
            let call = Call::Host(HostCall::ReadFiles { paths });
            self.reading = Some(out.issue(Owner::ImageRecords, Lane::Host, LIMIT, call));
        }
        None
    }

    /// A call ended. True if it was this one's.
    pub(super) fn done(&mut self, now: Now, id: ActionId, outcome: &Result<HostReply, Failure>) -> bool {
        if self.reading != Some(id) {
            return false;
        }
        self.reading = None;
        match outcome {
            Ok(HostReply::Files(files)) => {
                self.keyring = Keyring::default();
                self.keyring.add(&Source::Node, &self.config_of(files));
                self.counts_until = Some(now.mono + LIFETIME);
            }
            _ => self.counts_until = Some(now.mono + AGAIN),
        }
        true
    }

    fn config_of(&self, files: &[FileRead]) -> DockerConfig {
        let first = |paths: &[String], read: fn(&[u8]) -> Result<DockerConfig, String>| {
            let contents = |path: &String| files.iter().find(|file| file.name == *path)?.contents.as_ref().ok();
            paths.iter().filter_map(contents).find_map(|bytes| read(bytes.reveal()).ok())
        };
        first(&self.newer, config_json).or_else(|| first(&self.older, dockercfg)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::out::Ledger;
    use crate::sensitive::Sensitive;

    fn at(seconds: u64) -> Now {
        Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall: jiff::Timestamp::UNIX_EPOCH }
    }

    fn logins() -> NodeLogins {
        let mut config = Config::new("n1");
        config.paths.working = Some("/".to_owned());
        config.paths.home = Some("/root".to_owned());
        NodeLogins::new(&config)
    }

    /// The user for that repository if these files are there; and what is asked for.
    fn user(logins: &mut NodeLogins, seconds: u64, files: &[(&str, &str)]) -> (Option<String>, Vec<String>) {
        let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
        let mut out = Out::new(&mut ledger, &mut actions, &mut recorded);
        let mut found = logins.lookup(at(seconds), "r.example.com/app", &mut out);
        let mut asked = Vec::new();
        if found.is_none() {
            let Call::Host(HostCall::ReadFiles { paths }) = &actions[0].call else { panic!("{actions:?}") };
            asked.clone_from(paths);
            let read = |(name, text): &(&str, &str)| FileRead {
                name: (*name).to_owned(),
                contents: Ok(Sensitive::new(text.as_bytes().to_vec())),
            };
            assert!(logins.done(at(seconds), actions[0].id, &Ok(HostReply::Files(files.iter().map(read).collect()))));
            let mut out = Out::new(&mut ledger, &mut actions, &mut recorded);
            found = logins.lookup(at(seconds), "r.example.com/app", &mut out);
        }
        (found.unwrap().first().map(|credential| credential.auth.reveal().username.clone()), asked)
    }

    fn newer(user: &str) -> String {
        format!(r#"{{"auths": {{"r.example.com": {{"username": "{user}", "password": "p"}}}}}}"#)
    }

    // POD-205: DefaultDockerConfigJSONPaths, DefaultDockercfgPaths: in this order, the newer kind first; one that is none is passed over.
    #[test]
    fn first_docker_config_that_is_one_counts() {
        let (a, b) = (newer("a"), newer("b"));
        let older = r#"{"r.example.com": {"username": "old", "password": "p"}}"#;
        let (none, asked) = user(&mut logins(), 0, &[]);
        assert_eq!(none, None);
        assert_eq!(
            asked,
            [
                "/var/lib/kubelet/config.json",
                "/config.json",
                "/root/.docker/config.json",
                "/.docker/config.json",
                "/var/lib/kubelet/.dockercfg",
                "/.dockercfg",
                "/root/.dockercfg",
                "/.dockercfg",
            ]
        );
        let of = |files: &[(&str, &str)]| user(&mut logins(), 0, files).0;
        assert_eq!(of(&[("/root/.docker/config.json", &b), ("/var/lib/kubelet/config.json", &a)]).as_deref(), Some("a"));
        assert_eq!(of(&[("/root/.docker/config.json", &b), ("/var/lib/kubelet/config.json", "{")]).as_deref(), Some("b"));
        assert_eq!(of(&[("/root/.dockercfg", older), ("/.docker/config.json", &b)]).as_deref(), Some("b"));
        assert_eq!(of(&[("/root/.dockercfg", older)]).as_deref(), Some("old"));
        assert_eq!(of(&[("/root/.docker/config.json", &b), ("/var/lib/kubelet/config.json", "{}")]), None, "an empty one is one");
    }

    // POD-205: NewDefaultDockerKeyring keeps what it has read for five minutes.
    #[test]
    fn what_was_read_counts_for_five_minutes() {
        let mut logins = logins();
        let (a, b) = (newer("a"), newer("b"));
        assert_eq!(user(&mut logins, 0, &[("/config.json", &a)]).0.as_deref(), Some("a"));
        assert_eq!(user(&mut logins, 299, &[("/config.json", &b)]).0.as_deref(), Some("a"));
        assert_eq!(user(&mut logins, 300, &[("/config.json", &b)]).0.as_deref(), Some("b"));
    }
}
