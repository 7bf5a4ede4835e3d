//! Keeps which pod the core is working on, and where in it: whom a panic costs, and whom the next life suspects if this one dies.
//! Upstream: staging/src/k8s.io/apimachinery/pkg/util/runtime/runtime.go (HandleCrash), one for each goroutine.
//! Differs: one thread works for all pods, so that it says for whom before it does.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::ids::PodUid;

/// A place in the core at which work for one pod begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// A new pod is admitted.
    PodAdded,
    /// A pod changed.
    PodUpdated,
    /// A pod went away.
    PodRemoved,
    /// A pod of which only the runtime knows gets a worker.
    PodAdopted,
    /// A call for a pod ended.
    CallEnded,
    /// A pod is planned.
    Plan,
    /// What ended of its batch is told.
    StepsEnded,
    /// Its probes are brought in line.
    Probe,
    /// Its status is computed.
    Report,
    /// It is to run.
    Sync,
    /// Its volumes are brought on.
    Volumes,
    /// Its sandbox is configured.
    Sandbox,
    /// One of its containers is configured.
    Container,
    /// It is to stop.
    Terminate,
    /// What it had goes.
    CleanUp,
    /// Its record goes.
    Forget,
    /// Its dead containers are collected.
    CollectDead,
    /// Its image is looked after although nothing happened.
    ImageDue,
    /// Its token is asked for again.
    TokenDue,
    /// The API server is told of its status.
    Status,
    /// It is probed.
    ProbeDue,
    /// A volume of a driver that it uses takes its next step.
    Driver,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::PodAdded,
        Self::PodUpdated,
        Self::PodRemoved,
        Self::PodAdopted,
        Self::CallEnded,
        Self::Plan,
        Self::StepsEnded,
        Self::Probe,
        Self::Report,
        Self::Sync,
        Self::Volumes,
        Self::Sandbox,
        Self::Container,
        Self::Terminate,
        Self::CleanUp,
        Self::Forget,
        Self::CollectDead,
        Self::ImageDue,
        Self::TokenDue,
        Self::Status,
        Self::ProbeDue,
        Self::Driver,
    ];

    /// Its name, as messages and scenarios have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PodAdded => "pod-added",
            Self::PodUpdated => "pod-updated",
            Self::PodRemoved => "pod-removed",
            Self::PodAdopted => "pod-adopted",
            Self::CallEnded => "call-ended",
            Self::Plan => "plan",
            Self::StepsEnded => "steps-ended",
            Self::Probe => "probe",
            Self::Report => "report",
            Self::Sync => "sync",
            Self::Volumes => "volumes",
            Self::Sandbox => "sandbox",
            Self::Container => "container",
            Self::Terminate => "terminate",
            Self::CleanUp => "clean-up",
            Self::Forget => "forget",
            Self::CollectDead => "collect-dead",
            Self::ImageDue => "image-due",
            Self::TokenDue => "token-due",
            Self::Status => "status",
            Self::ProbeDue => "probe-due",
            Self::Driver => "driver",
        }
    }
}

/// Is told whom the core begins to work for, and where; `None` once it works for nobody. It must be fast: it is called often.
pub type OnWork = Box<dyn FnMut(Option<(Point, &PodUid)>) + Send>;

/// Whom the core works for.
#[derive(Default)]
pub struct Work {
    now: Option<(Point, PodUid)>,
    last: Option<PodUid>,
    on_work: Option<OnWork>,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("now", &self.now).finish_non_exhaustive()
    }
}

impl Work {
    /// Tells somebody from now on.
    pub fn told_to(&mut self, on_work: OnWork) {
        self.on_work = Some(on_work);
    }

    /// Work for a pod begins.
    pub fn begins(&mut self, at: Point, pod: &PodUid) {
        match &mut self.now {
            Some((point, known)) if known == pod => *point = at,
            now => *now = Some((at, pod.clone())),
        }
        if let Some(on_work) = &mut self.on_work {
            on_work(Some((at, pod)));
        }
    }

    /// Nobody is worked for.
    pub fn rests(&mut self) {
        if let Some((_, pod)) = self.now.take() {
            self.last = Some(pod);
            if let Some(on_work) = &mut self.on_work {
                on_work(None);
            }
        }
    }

    /// Whom it was worked for last; asking begins anew.
    pub fn take_last(&mut self) -> Option<PodUid> {
        self.last.take()
    }

    /// Whom it is worked for.
    #[must_use]
    pub fn now(&self) -> Option<&(Point, PodUid)> {
        self.now.as_ref()
    }
}

/// Does something that a panic must not get out of. Whoever calls it mends what may be half done.
///
/// # Errors
/// What the panic said, if it is a text of the program: one that was put together at run time may hold what nobody is to read.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Option<&'static str>> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| payload.downcast_ref::<&'static str>().copied())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = Point::ALL.iter().map(|point| point.as_str()).collect();
        assert_eq!(names.len(), Point::ALL.len());
        assert!(Point::ALL.is_sorted());
    }

    #[test]
    fn only_a_text_of_the_program_is_told() {
        let secret = String::from("s3cr3t");
        assert_eq!(caught(|| 1), Ok(1));
        assert_eq!(caught(|| panic!("plain")), Err::<(), _>(Some("plain")));
        assert_eq!(caught(|| panic!("{secret}")), Err::<(), _>(None));
    }
}
