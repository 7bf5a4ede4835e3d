//! What a real kubelet answered, request by request.

use super::*;

/// What is not built yet: as if switched off, or not there (docs/differs.md).
const NOT_SERVED: [&str; 4] = ["/logs/", "/statusz", "/flagz", "/debug/pprof/"];

/// What needs a whole machine or runtime, and is held by tests of its own in `information`.
const HELD_ELSEWHERE: [&str; 2] = ["/stats/summary?only_cpu_and_memory=true", "/runningpods/"];

// API-007, API-008, API-009, API-081, API-082, API-083
#[tokio::test(start_paused = true)]
async fn requests_are_answered_as_a_kubelet_answers_them() {
    let world = World::new().start().await;
    world.run_pod("gold-running");
    let mut compared = 0;
    for line in include_str!("../../../testdata/server/http-answers.tsv").lines() {
        let [method, path, who, status, kind, body] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        if NOT_SERVED.contains(&path) || HELD_ELSEWHERE.contains(&path) {
            continue;
        }
        // The record has a container `main`, this world one `c`.
        let path = path.replace("/main?", "/c?");
        let answer = world.ask(method, &path, if who == "admin" { ADMIN } else { "nobody" }).await;
        assert_eq!((answer.status.to_string().as_str(), answer.header("content-type")), (status, kind), "{line}");
        // Of long bodies the record has the first bytes, with spaces for line feeds; those of objects are compared elsewhere.
        let said = answer.body.replace('\n', " ");
        if kind == "application/json" {
            assert!(said.starts_with('{'), "{line}: {said}");
        } else {
            assert_eq!(said.trim(), body.trim(), "{line}");
        }
        compared += 1;
    }
    assert_eq!(compared, 11);
}
