//! Decides when the node's resolver configuration and hosts file are read: before sandboxes and containers are made.
//! Upstream: pkg/kubelet/network/dns/dns.go (getHostDNSConfig), pkg/kubelet/kubelet_pods.go (nodeHostsFileContent).
//! Differs: one reading serves all that is made within ten seconds after it; limits are checked (DNS-008) at the first one, not at the
//! start.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::action::{Call, HostCall, Lane};
use crate::config::Dns;
use crate::event::HostReply;
use crate::failure::{Failure, FailureKind};
use crate::ids::{ActionId, PodUid};
use crate::out::{Out, Owner};
use crate::pod::dns::ResolvConf;
use crate::time::{Mono, Now};

const HOSTS: &str = "/etc/hosts";
const TIMEOUT: Duration = Duration::from_secs(10);
/// For how long a reading serves once it has ended: whoever waited for it must find it, or would ask for ever.
const FRESH_FOR: Duration = Duration::from_secs(10);
/// How long a file that could not be read is not tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The node's files as last read.
#[derive(Debug, Default)]
pub struct NodeFiles {
    resolv_conf: Option<Result<String, String>>,
    hosts: Option<Result<String, String>>,
    /// When the last complete reading began, and when it ended.
    last: Option<(Mono, Mono)>,
    reading: Option<Reading>,
    /// Who waits for the reading.
    waiting: BTreeSet<PodUid>,
    /// Whether the resolver configuration was looked through for what resolvers do not take.
    checked: bool,
}

#[derive(Debug)]
struct Reading {
    began: Mono,
    resolv_conf: Option<ActionId>,
    hosts: Option<ActionId>,
}

impl NodeFiles {
    /// The resolver configuration: its text, why it could not be read, or `None` before the first reading.
    #[must_use]
    pub fn resolv_conf(&self) -> Option<&Result<String, String>> {
        self.resolv_conf.as_ref()
    }

    /// What is wrong with the resolver configuration of this life's first reading, once (DNS-008).
    pub fn first_complaint(&mut self, dns: &Dns) -> Option<String> {
        if std::mem::replace(&mut self.checked, true) {
            return None;
        }
        match self.resolv_conf.as_ref()? {
            Ok(text) => ResolvConf::parse(text).map_or_else(Some, |conf| conf.beyond_limits(dns)),
            Err(why) => Some(why.clone()),
        }
    }

    /// The hosts file (NET-003).
    ///
    /// # Errors
    /// It could not be read, and why.
    pub fn hosts(&self) -> Result<&str, String> {
        match &self.hosts {
            Some(Ok(text)) => Ok(text),
            Some(Err(why)) => Err(why.clone()),
            None => Err(format!("open {HOSTS}: not read yet")),
        }
    }

    /// Whether the files were read at or after that moment, and not long ago; if not, they are being read, and the pod is woken at the
    /// end. (dns.go, getHostDNSConfig, and nodeHostsFileContent read them each time.)
    pub fn ensure(&mut self, now: Now, (uid, since): (&PodUid, Mono), resolv_conf: &str, out: &mut Out<'_>) -> bool {
        let failed = matches!(self.resolv_conf, Some(Err(_))) || matches!(self.hosts, Some(Err(_)));
        let serves = if failed { RETRY } else { FRESH_FOR };
        let valid = self.last.is_some_and(|(began, ended)| (failed || began >= since) && now.mono.since(ended) < serves);
        if !valid {
            self.waiting.insert(uid.clone());
            self.read(now, resolv_conf, out);
        }
        valid
    }

    fn read(&mut self, now: Now, resolv_conf: &str, out: &mut Out<'_>) {
        if self.reading.is_some() {
            return;
        }
        let mut read = |path: &str| {
            let call = Call::Host(HostCall::ReadFile { path: path.to_owned() });
            out.issue(Owner::NodeFiles, Lane::Host, TIMEOUT, call)
        };
        let resolv_conf = (!resolv_conf.is_empty()).then(|| read(resolv_conf));
        self.reading = Some(Reading { began: now.mono, resolv_conf, hosts: Some(read(HOSTS)) });
    }

    /// A read ended. Answers who waited for it, if the reading is complete.
    pub fn done(&mut self, now: Now, id: ActionId, outcome: Result<HostReply, Failure>) -> Option<BTreeSet<PodUid>> {
        let reading = self.reading.as_mut()?;
        let text = outcome.and_then(|reply| match reply {
            HostReply::Contents(contents) => Ok(String::from_utf8_lossy(&contents).into_owned()),
            _ => Err(Failure::new(FailureKind::Other, "the host answered something else")),
        });
        let text = text.map_err(|failure| failure.message);
        if reading.resolv_conf == Some(id) {
            reading.resolv_conf = None;
            self.resolv_conf = Some(text);
        } else if reading.hosts == Some(id) {
            reading.hosts = None;
            self.hosts = Some(text);
        }
        if reading.resolv_conf.is_some() || reading.hosts.is_some() {
            return None;
        }
        self.last = Some((reading.began, now.mono));
        self.reading = None;
        Some(std::mem::take(&mut self.waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Action;
    use crate::out::Ledger;

    fn at(seconds: u64) -> Now {
        Now { mono: Mono::from_start(Duration::from_secs(seconds)), wall: jiff::Timestamp::UNIX_EPOCH }
    }

    /// Whether what is there serves a pod that came then, and what is read if it does not.
    fn asked(files: &mut NodeFiles, now: u64, came: u64) -> (bool, Vec<Action>) {
        let (mut ledger, mut actions, mut recorded) = (Ledger::default(), Vec::new(), Vec::new());
        let mut out = Out::new(&mut ledger, &mut actions, &mut recorded);
        let valid = files.ensure(at(now), (&PodUid::new("u"), at(came).mono), "/etc/resolv.conf", &mut out);
        (valid, actions)
    }

    /// What was asked for is answered then, with that for each path; who is woken.
    fn answered(files: &mut NodeFiles, now: u64, asked: Vec<Action>, text: impl Fn(&str) -> Result<String, Failure>) -> usize {
        let mut woken = BTreeSet::new();
        for action in asked {
            let Call::Host(HostCall::ReadFile { path }) = &action.call else { panic!("{:?}", action.call) };
            let outcome = text(path).map(|text| HostReply::Contents(text.into_bytes()));
            woken.extend(files.done(at(now), action.id, outcome).into_iter().flatten());
        }
        woken.len()
    }

    // NET-003, DNS-007: kubelet_pods.go (nodeHostsFileContent) and dns.go (getHostDNSConfig) read the files whenever something is made.
    #[test]
    fn files_of_the_node_are_read_again_for_a_pod_that_has_been_here_long() {
        let mut files = NodeFiles::default();
        let monday = |path: &str| Ok(format!("{path} of monday"));
        let friday = |path: &str| Ok(format!("{path} of friday"));
        let (valid, reads) = asked(&mut files, 100, 100);
        assert!(!valid && reads.len() == 2 && files.hosts().is_err());
        assert!(asked(&mut files, 101, 100).1.is_empty(), "they are being read");
        // As slow as it may be: what was waited for serves.
        assert_eq!(answered(&mut files, 110, reads, monday), 1);
        assert!(asked(&mut files, 110, 100).0 && asked(&mut files, 119, 100).0);
        let (valid, reads) = asked(&mut files, 115, 112);
        assert!(!valid && reads.len() == 2, "a pod that came later has them as they are then");
        answered(&mut files, 115, reads, monday);
        let (valid, reads) = asked(&mut files, 3715, 100);
        assert!(!valid && reads.len() == 2);
        answered(&mut files, 3715, reads, friday);
        assert!(asked(&mut files, 3715, 100).0);
        assert_eq!(files.hosts().unwrap(), "/etc/hosts of friday");
        assert_eq!(files.resolv_conf().unwrap().as_deref().unwrap(), "/etc/resolv.conf of friday");
    }

    // NET-003: upstream's os.ReadFile fails, and with it the start; it is tried again.
    #[test]
    fn hosts_file_that_cannot_be_read_is_no_empty_one() {
        let mut files = NodeFiles::default();
        let (_, reads) = asked(&mut files, 0, 0);
        let why = "open /etc/hosts: no such file or directory";
        let one_fails = |path: &str| {
            if path == "/etc/hosts" { Err(Failure::new(FailureKind::NotFound, why)) } else { Ok(String::new()) }
        };
        assert_eq!(answered(&mut files, 1, reads, one_fails), 1);
        assert!(asked(&mut files, 2, 0).0, "whoever waited learns of it");
        assert_eq!(files.hosts(), Err(why.to_owned()));
        let (valid, reads) = asked(&mut files, 6, 0);
        assert!(!valid);
        answered(&mut files, 6, reads, |_| Ok("127.0.0.1 localhost\n".to_owned()));
        assert_eq!(files.hosts(), Ok("127.0.0.1 localhost\n"));
    }
}
