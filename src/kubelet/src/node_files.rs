//! Decides when the node's resolver configuration and hosts file are read: once for every pod that came after the last reading.
//! Upstream: pkg/kubelet/network/dns/dns.go (getHostDNSConfig), pkg/kubelet/kubelet_pods.go (nodeHostsFileContent).
//! Differs: one reading serves all pods that came at the same moment; limits are checked (DNS-008) at the first one, not at the start.

use std::time::Duration;

use crate::action::{Call, HostCall, Lane};
use crate::config::Dns;
use crate::event::HostReply;
use crate::failure::{Failure, FailureKind};
use crate::ids::ActionId;
use crate::out::{Out, Owner};
use crate::pod::dns::ResolvConf;
use crate::time::{Mono, Now};

const HOSTS: &str = "/etc/hosts";
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a file that could not be read is not tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The node's files as last read.
#[derive(Debug, Default)]
pub struct NodeFiles {
    resolv_conf: Option<Result<String, String>>,
    hosts: Option<String>,
    /// When the last complete reading began.
    began: Option<Mono>,
    reading: Option<Reading>,
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

    /// The hosts file; empty if it could not be read.
    #[must_use]
    pub fn hosts(&self) -> &str {
        self.hosts.as_deref().unwrap_or_default()
    }

    /// Whether the files were read at or after `since`; if not, they are being read, and all pods are woken at the end.
    pub fn ensure(&mut self, now: Now, since: Mono, resolv_conf: &str, out: &mut Out<'_>) -> bool {
        let failed = matches!(self.resolv_conf, Some(Err(_)));
        let valid = self.began.is_some_and(|began| if failed { now.mono.since(began) < RETRY } else { began >= since });
        if !valid && self.reading.is_none() {
            let mut read = |path: &str| {
                let call = Call::Host(HostCall::ReadFile { path: path.to_owned() });
                out.issue(Owner::NodeFiles, Lane::Host, TIMEOUT, call)
            };
            let resolv_conf = (!resolv_conf.is_empty()).then(|| read(resolv_conf));
            self.reading = Some(Reading { began: now.mono, resolv_conf, hosts: Some(read(HOSTS)) });
        }
        valid
    }

    /// A read ended. True if the reading is complete.
    pub fn done(&mut self, id: ActionId, outcome: Result<HostReply, Failure>) -> bool {
        let Some(reading) = &mut self.reading else { return false };
        let text = outcome.and_then(|reply| match reply {
            HostReply::Contents(contents) => Ok(String::from_utf8_lossy(&contents).into_owned()),
            _ => Err(Failure::new(FailureKind::Other, "the host answered something else")),
        });
        if reading.resolv_conf == Some(id) {
            reading.resolv_conf = None;
            self.resolv_conf = Some(text.map_err(|failure| failure.message));
        } else if reading.hosts == Some(id) {
            reading.hosts = None;
            self.hosts = Some(text.unwrap_or_default());
        }
        let complete = reading.resolv_conf.is_none() && reading.hosts.is_none();
        if complete {
            self.began = Some(reading.began);
            self.reading = None;
        }
        complete
    }
}
