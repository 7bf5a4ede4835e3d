//! What must hold of everything that the server says, whoever asks and whatever else is broken.

use super::information::{cgroup, golden_machine, no_series_twice, set_cgroups, set_more_cgroups};
use super::*;

const METRICS: [&str; 4] = ["/metrics", "/metrics/cadvisor", "/metrics/resource", "/metrics/probes"];

/// Everything that is told of the figures of this node.
async fn told(world: &World) -> Vec<(&'static str, String)> {
    let mut told = Vec::new();
    for path in METRICS.into_iter().chain(["/stats/summary", "/pods", "/configz", "/healthz", "/flagz", "/statusz"]) {
        told.push((path, world.get(path).await.body));
    }
    told
}

// INV-07: a credential is in no answer, whether it was taken, refused, or nobody's, and in no series.
#[tokio::test(start_paused = true)]
async fn credentials_are_told_to_nobody() {
    let secret = "c2VjcmV0LW9mLXNvbWVib2R5";
    let world = World::new().start().await;
    world.run_pod("p");
    let somebody = UserInfo { name: "somebody".to_owned(), ..UserInfo::default() };
    for known in [false, true] {
        if known {
            tokio::time::advance(Duration::from_secs(60)).await;
            world.api.tokens.lock().unwrap().insert(secret.to_owned(), somebody.clone());
        }
        for path in METRICS.into_iter().chain(["/pods", "/nosuch", "/containerLogs/default/p/c", "/exec/default/p/c?command=ls"]) {
            let answer = world.ask("GET", path, secret).await;
            assert_ne!(answer.status, 200, "{path}");
            let headers = format!("{:?}", answer.headers);
            assert!(!answer.body.contains(secret) && !headers.contains(secret), "{path}: {answer:?}");
        }
    }
    for (path, text) in told(&world).await {
        assert!(!text.contains(secret) && !text.contains(ADMIN), "{path}: {text}");
    }
}

// INV-09: each series of each page is there once, also of a node on which much runs.
#[tokio::test(start_paused = true)]
async fn no_page_has_a_series_twice() {
    let world = World::new().start().await;
    golden_machine(&world);
    set_cgroups(&world, false);
    set_more_cgroups(&world);
    world.run_pod("p");
    for path in METRICS {
        let text = world.get(path).await.body;
        no_series_twice(&text);
        assert!(path == "/metrics/probes" || text.lines().count() > 5, "{path}: {text}");
    }
}

// INV-10: memory is measured in several steps, so what is active may be more than all of it, and what is used more than the limit: neither is
// told. No figure is below zero, or none.
#[tokio::test(start_paused = true)]
async fn figures_that_cannot_be_are_not_told() {
    let world = World::new().start().await;
    golden_machine(&world);
    set_cgroups(&world, false);
    set_more_cgroups(&world);
    world.host.cgroups.lock().unwrap().insert("/kubepods/gold".to_owned(), cgroup(7, 100, 120, 80, (6, 5), Some(110)));
    let summary = world.get("/stats/summary").await.json();
    let memory = &summary["pods"][0]["memory"];
    assert_eq!((&memory["usageBytes"], &memory["workingSetBytes"]), (&json!(100), &json!(100)), "{memory}");
    assert_eq!(memory["availableBytes"], 0);
    let cadvisor = world.get("/metrics/cadvisor").await.body;
    let working_set =
        cadvisor.lines().find(|line| line.starts_with("container_memory_working_set_bytes") && line.contains("/gold\""));
    assert!(working_set.is_some_and(|line| line.contains("} 100 ")), "{working_set:?}");
    for path in METRICS {
        for line in world.get(path).await.body.lines().filter(|line| !line.starts_with('#')) {
            let value =
                line.rsplit_once("} ").map_or_else(|| line.split_once(' ').map(|(_, value)| value), |(_, value)| Some(value));
            let value = value.and_then(|value| value.split(' ').next()).and_then(|value| value.parse::<f64>().ok());
            assert!(value.is_some_and(|value| value >= 0.0), "{path}: {line}");
        }
    }
}

// INV-11: an API server that takes questions about tokens and answers none keeps those waiting who ask with a token that is not known, and
// nobody else; nor does a runtime that hangs.
#[tokio::test(start_paused = true)]
async fn what_hangs_keeps_nobody_else_waiting() {
    let world = World::new().start().await;
    assert_eq!(world.get("/healthz").await.status, 200);
    *world.api.hung.lock().unwrap() = true;
    *world.runtime.hung.lock().unwrap() = true;
    let stranger = world.ask("GET", "/pods", "of-a-stranger");
    let known = async {
        let began = tokio::time::Instant::now();
        for path in ["/healthz", "/healthz/ping", "/healthz/syncloop", "/pods"] {
            assert_eq!(world.get(path).await.status, 200, "{path}");
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    };
    tokio::select! {
        biased;
        answer = stranger => panic!("{answer:?}"),
        () = known => {}
    }
}
