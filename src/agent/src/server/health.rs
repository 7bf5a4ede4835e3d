//! /healthz: whether the agent answers, and whether its sync loop turns.
//! Upstream: k8s.io/apiserver/pkg/server/healthz, pkg/kubelet/server/server.go.
//! Differs: there are no device plugins, so their check passes; the log check looks at lines that wait, and logs none itself.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::{StatusCode, Uri};

use super::metrics::Registry;
use super::query::Pairs;
use super::{NodeView, Shared, reply};
use crate::log_lines::LogLines;

const STUCK: &str = "sync Loop took longer than expected";

/// A check by name; the reason of a failure is for the log and for whoever asks for that check alone.
type Check = (&'static str, Result<(), &'static str>);

fn turning(view: &dyn NodeView) -> Result<(), &'static str> {
    if view.sync_loop_healthy() { Ok(()) } else { Err(STUCK) }
}

/// All that says whether the process is healthy: for /healthz and for systemd's watchdog.
fn checks(view: &dyn NodeView, log: &LogLines) -> [Check; 4] {
    [("ping", Ok(())), ("log", log.check()), ("syncloop", turning(view)), ("device-plugin", Ok(()))]
}

/// The first of them that fails, as upstream's watchdog tells it (pkg/kubelet/watchdog, doCheck).
///
/// # Errors
/// Its name and why.
pub(crate) fn check(view: &dyn NodeView, log: &LogLines) -> Result<(), String> {
    checks(view, log).into_iter().try_for_each(|(name, outcome)| outcome.map_err(|why| format!("checker {name} failed: {why}")))
}

/// API-062
pub(crate) async fn all(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    aggregate(&shared.metrics, &checks(shared.view.as_ref(), &shared.settings.log), &Pairs::of(&uri))
}

/// The healthz listener's: whether the process answers (API-003).
pub(crate) async fn ping_only(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    aggregate(&shared.metrics, &[("ping", Ok(()))], &Pairs::of(&uri))
}

/// API-063
pub(crate) async fn ping() -> Response {
    one(Ok(()))
}

/// API-065
pub(crate) async fn log(State(shared): State<Arc<Shared>>) -> Response {
    one(shared.settings.log.check())
}

/// API-064
pub(crate) async fn sync_loop(State(shared): State<Arc<Shared>>) -> Response {
    one(turning(shared.view.as_ref()))
}

/// Upstream's fails once the server that device plugins register with has ended.
pub(crate) async fn device_plugin() -> Response {
    one(Ok(()))
}

fn one(outcome: Result<(), &str>) -> Response {
    match outcome {
        Ok(()) => reply::text(StatusCode::OK, "ok"),
        Err(reason) => reply::error_line(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {reason}")),
    }
}

/// What is excluded is not looked at, and so not counted; a check that is asked for alone is not counted either (API-145).
fn aggregate(metrics: &Registry, checks: &[Check], query: &Pairs) -> Response {
    let mut excluded: Vec<&str> = query.all("exclude").collect();
    let mut lines = String::new();
    let mut failed = false;
    for (name, outcome) in checks {
        if excluded.contains(name) {
            excluded.retain(|one| one != name);
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        metrics.health_checked(name, outcome.is_ok());
        let line = if let Err(reason) = outcome {
            tracing::warn!(check = name, reason, "healthz check failed");
            failed = true;
            format!("[-]{name} failed: reason withheld\n")
        } else {
            format!("[+]{name} ok\n")
        };
        lines.push_str(&line);
    }
    if !excluded.is_empty() {
        excluded.sort_unstable();
        excluded.dedup();
        let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        lines.push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", names.join(",")));
    }
    if failed {
        return reply::error_line(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}healthz check failed"));
    }
    let verbose = query.first("verbose").is_some();
    let body = if verbose { format!("{lines}healthz check passed\n") } else { "ok".to_owned() };
    reply::nosniff(reply::text(StatusCode::OK, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(query: &str) -> Pairs {
        Pairs::of(&format!("/healthz?{query}").parse().unwrap())
    }

    async fn body(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_aggregate_names_failed_checks_but_not_why() {
        // API-062
        let metrics = Registry::new();
        let checks: [Check; 2] = [("ping", Ok(())), ("syncloop", Err(STUCK))];
        let aggregate = |query: &str| aggregate(&metrics, &checks, &self::query(query));
        let response = aggregate("");
        assert_eq!(response.status(), 500);
        assert_eq!(body(response).await, "[+]ping ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n");
        assert_eq!(body(aggregate("exclude=syncloop")).await, "ok");
        // apiserver/pkg/server/healthz/healthz.go, formatQuoted.
        let verbose = aggregate("verbose&exclude=syncloop&exclude=nosuch&exclude=a");
        assert_eq!(
            body(verbose).await,
            "[+]ping ok\n[+]syncloop excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"a\",\"nosuch\"\nhealthz check passed\n"
        );
    }

    #[tokio::test]
    async fn one_check_alone_says_why_it_failed() {
        // API-063
        let response = one(Err(STUCK));
        assert_eq!(response.status(), 500);
        assert_eq!(body(response).await, "internal server error: sync Loop took longer than expected\n");
    }
}
