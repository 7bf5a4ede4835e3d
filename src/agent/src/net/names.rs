//! Decides when a name gets a thread to be looked up on: no look-up delays another subject's, and none takes a thread of anything else.
//! Upstream: Go's net package (Resolver.lookupIPAddr: one look-up for all who ask for a name at once, left alone by those who give up).
//! Differs: the system's resolver cannot be told to stop, so that few look-ups go on at once for one pod, and for all pods together.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::bounds::Bounds;

/// How many look-ups go on at once for one pod.
const OF_ONE_POD: usize = 8;
/// How many go on at once for all pods.
const OF_ALL_PODS: usize = 256;
/// How many go on at once for one of the node's own names, such as the API server's.
const OF_ONE_NAME: usize = 4;
/// How many go on at once for all of those.
const OF_THE_NODE: usize = 32;
/// How long a look-up is joined by those who ask for the same name. One that takes longer may never end, though name servers answer by now:
/// then another is begun.
const JOINED: Duration = Duration::from_secs(10);

/// The system's resolver or, in tests, another. It may block for as long as it likes.
type Resolve = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// What a look-up came to, for all who wait for it; `None` while it goes on.
type Answer = Option<Result<Vec<SocketAddr>, (io::ErrorKind, String)>>;

/// The look-ups of names.
pub(super) struct Names {
    resolve: Arc<Resolve>,
    of_node: Arc<Lookups>,
    of_pods: Arc<Lookups>,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("of_node", &self.of_node).field("of_pods", &self.of_pods).finish_non_exhaustive()
    }
}

/// Those of the node's own names, or those of pods.
#[derive(Debug)]
struct Lookups {
    each: Bounds,
    all: Arc<Semaphore>,
    going_on: Mutex<BTreeMap<String, Lookup>>,
}

/// The newest of one name.
#[derive(Debug)]
struct Lookup {
    began: Instant,
    answer: watch::Receiver<Answer>,
}

/// What the thread of a look-up holds, until the resolver lets it end.
struct Thread {
    lookups: Arc<Lookups>,
    name: String,
    answer: watch::Sender<Answer>,
    _places: [Option<OwnedSemaphorePermit>; 2],
}

impl Names {
    /// As the system knows them: by its hosts file, its name servers, and whatever else it is set to ask.
    pub(super) fn of_the_system() -> Self {
        Self::by(Arc::new(|name: &str| Ok((name, 0).to_socket_addrs()?.collect())))
    }

    fn by(resolve: Arc<Resolve>) -> Self {
        Self { resolve, of_node: Lookups::new(OF_ONE_NAME, OF_THE_NODE), of_pods: Lookups::new(OF_ONE_POD, OF_ALL_PODS) }
    }

    /// The addresses of a name, with port 0, for a pod or for the node itself. Whoever gives up leaves a look-up that has begun to itself.
    pub(super) async fn find(&self, pod: Option<&str>, name: &str) -> io::Result<Vec<SocketAddr>> {
        let (lookups, subject) = pod.map_or((&self.of_node, name), |pod| (&self.of_pods, pod));
        let joined = lookups.lock().get(name).and_then(Lookup::joined);
        let mut answer = match joined {
            Some(answer) => answer,
            None => {
                let own = lookups.each.enter(subject).await;
                // Neither semaphore is ever closed, so this only waits.
                let one = Arc::clone(&lookups.all).acquire_owned().await.ok();
                lookups.begin(name, [own, one], &self.resolve)?
            }
        };
        let lost = |_| io::Error::other(format!("the look-up of {name} was lost"));
        let answer = answer.wait_for(Option::is_some).await.map_err(lost)?.clone();
        answer.unwrap_or_else(|| Ok(Vec::new())).map_err(|(kind, why)| io::Error::new(kind, why))
    }
}

impl Lookups {
    fn new(each: usize, all: usize) -> Arc<Self> {
        Arc::new(Self { each: Bounds::new(each), all: Arc::new(Semaphore::new(all)), going_on: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Lookup>> {
        self.going_on.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a look-up in these places, or joins one that began while they were waited for. The thread is no runtime's: what hangs on it
    /// keeps nothing else from having one.
    fn begin(
        self: &Arc<Self>,
        name: &str,
        places: [Option<OwnedSemaphorePermit>; 2],
        resolve: &Arc<Resolve>,
    ) -> io::Result<watch::Receiver<Answer>> {
        let (tell, answer) = watch::channel(None);
        {
            let mut going_on = self.lock();
            if let Some(joined) = going_on.get(name).and_then(Lookup::joined) {
                return Ok(joined);
            }
            going_on.insert(name.to_owned(), Lookup { began: Instant::now(), answer: answer.clone() });
        }
        let (name, resolve) = (name.to_owned(), Arc::clone(resolve));
        let thread = Thread { lookups: Arc::clone(self), name, answer: tell, _places: places };
        std::thread::Builder::new().name("lookup".to_owned()).spawn(move || {
            let found = resolve(&thread.name).map_err(|error| (error.kind(), error.to_string()));
            thread.answer.send_replace(Some(found));
        })?;
        Ok(answer)
    }
}

impl Lookup {
    fn joined(&self) -> Option<watch::Receiver<Answer>> {
        (self.began.elapsed() < JOINED).then(|| self.answer.clone())
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let mut going_on = self.lookups.lock();
        // By now it may be another's.
        if going_on.get(&self.name).is_some_and(|lookup| lookup.answer.same_channel(&self.answer.subscribe())) {
            going_on.remove(&self.name);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Condvar;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const ADDRESS: &str = "192.0.2.1:0";

    /// Name servers that answer at once, but for what ends in `.blackhole.example`: for that they do when they are told to.
    #[derive(Default)]
    pub(crate) struct Servers {
        answer: Mutex<bool>,
        told: Condvar,
        on_a_runtime: AtomicUsize,
    }

    impl Servers {
        pub(crate) fn answer(&self) {
            *self.answer.lock().unwrap() = true;
            self.told.notify_all();
        }
    }

    pub(in super::super) fn names(servers: &Arc<Servers>) -> Names {
        let servers = Arc::clone(servers);
        Names::by(Arc::new(move |name: &str| {
            servers.on_a_runtime.fetch_add(usize::from(tokio::runtime::Handle::try_current().is_ok()), Ordering::Relaxed);
            if name.ends_with(".blackhole.example") {
                drop(servers.told.wait_while(servers.answer.lock().unwrap(), |answer| !*answer));
            }
            match name {
                "nobody" => Err(io::Error::other("failed to lookup address information: Name or service not known")),
                _ => Ok(vec![ADDRESS.parse().unwrap()]),
            }
        }))
    }

    async fn gives_up(names: &Names, pod: &str, name: &str) -> bool {
        tokio::time::timeout(Duration::from_millis(10), names.find(Some(pod), name)).await.is_err()
    }

    impl Names {
        pub(in super::super) fn going_on_for_pods(&self) -> usize {
            self.of_pods.lock().len()
        }
    }

    fn taken(lookups: &Lookups, all: usize) -> usize {
        all - lookups.all.available_permits()
    }

    // Upstream a look-up ends with its probe (net/lookup.go: lookupIPAddr), and takes no thread.
    #[tokio::test(start_paused = true)]
    async fn pod_whose_names_nobody_answers_for_has_eight_threads_and_delays_nobody() {
        let servers = Arc::new(Servers::default());
        let names = names(&servers);
        for number in 0..1000 {
            let (pod, name) = (["a", "b"][number % 2], format!("c{number}.blackhole.example"));
            assert!(gives_up(&names, pod, &name).await);
        }
        assert_eq!((names.going_on_for_pods(), taken(&names.of_pods, OF_ALL_PODS)), (2 * OF_ONE_POD, 2 * OF_ONE_POD));
        // Without a deadline, for whatever waits here waits for ever.
        for (pod, name) in [(Some("c"), "good.example"), (None, "api.example")] {
            assert_eq!(names.find(pod, name).await.unwrap(), [ADDRESS.parse().unwrap()]);
        }
        assert!(gives_up(&names, "a", "good.example").await, "its own are all taken");
        servers.answer();
        assert_eq!(names.find(Some("a"), "good.example").await.unwrap().len(), 1);
        assert_eq!(servers.on_a_runtime.load(Ordering::Relaxed), 0, "the runtime's threads are for others");
    }

    #[tokio::test(start_paused = true)]
    async fn pods_delay_no_name_of_the_node() {
        let servers = Arc::new(Servers::default());
        let names = names(&servers);
        for number in 0..400 {
            assert!(gives_up(&names, &format!("p{number}"), &format!("c{number}.blackhole.example")).await);
        }
        assert_eq!(taken(&names.of_pods, OF_ALL_PODS), OF_ALL_PODS);
        assert_eq!(names.find(None, "api.example").await.unwrap().len(), 1);
        // One that a pod asks for in vain as well.
        assert!(gives_up(&names, "a", "api.example").await);
        assert_eq!(names.find(None, "api.example").await.unwrap().len(), 1);
        servers.answer();
    }

    #[tokio::test(start_paused = true)]
    async fn name_is_looked_up_once_for_all_who_ask_and_again_where_that_takes_too_long() {
        let servers = Arc::new(Servers::default());
        let names = names(&servers);
        let api = "api.blackhole.example";
        let wait = |within| tokio::time::timeout(within, names.find(None, api));
        let began = Instant::now();
        for _ in 0..9 {
            assert!(wait(Duration::from_secs(1)).await.is_err());
        }
        assert_eq!(taken(&names.of_node, OF_THE_NODE), 1);
        for _ in 0..100 {
            assert!(wait(Duration::from_secs(1)).await.is_err());
        }
        assert_eq!((taken(&names.of_node, OF_THE_NODE), began.elapsed().as_secs()), (OF_ONE_NAME, 109));
        servers.answer();
        assert_eq!(names.find(None, api).await.unwrap().len(), 1);
        while taken(&names.of_node, OF_THE_NODE) > 0 {
            tokio::task::yield_now().await;
        }
        assert!(names.of_node.lock().is_empty());
        assert_eq!(
            names.find(None, "nobody").await.unwrap_err().to_string().split(':').next(),
            Some("failed to lookup address information")
        );
    }
}
