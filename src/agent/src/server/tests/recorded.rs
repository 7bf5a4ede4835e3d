//! Answers of a real kubelet 1.36, request by request.

use super::*;

/// Method, path, Accept, and what a real kubelet answered: status, Content-Type, Allow, body (`...`: any).
type Recorded = (&'static str, &'static str, &'static str, u16, &'static str, &'static str, &'static str);

const PLAIN: &str = "text/plain; charset=utf-8";
const NOT_ACCEPTABLE: &str = "406: Not Acceptable\n\nAvailable representations: application/json";
const STATUS_406: &str = "{\n  \"kind\": \"Status\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {},\n  \"status\": \"Failure\",\n  \"message\": \"only the following media types are accepted: application/json, application/yaml, text/plain\",\n  \"reason\": \"NotAcceptable\",\n  \"code\": 406\n}";

#[rustfmt::skip]
const RECORDED: [Recorded; 33] = [
    ("GET", "/healthz/device-plugin", "", 200, PLAIN, "", "ok"),
    ("GET", "/healthz?verbose", "", 200, PLAIN, "", "[+]ping ok\n[+]log ok\n[+]syncloop ok\n[+]device-plugin ok\nhealthz check passed\n"),
    ("GET", "/runningpods", "", 307, "text/html; charset=utf-8", "", "<a href=\"/runningpods/\">Temporary Redirect</a>.\n\n"),
    ("HEAD", "/runningpods", "", 307, "text/html; charset=utf-8", "", ""),
    ("POST", "/runningpods", "", 307, "", "", ""),
    ("PUT", "//pods", "", 307, "", "", ""),
    ("GET", "/pods/", "", 200, "application/json", "", "..."),
    ("GET", "/pods", "application/json, text/html", 200, "application/json", "", "..."),
    ("GET", "/pods", "application/json;as=Table", 200, "application/json", "", "..."),
    ("GET", "/pods", "text/html", 406, PLAIN, "", NOT_ACCEPTABLE),
    ("GET", "/pods", "application/vnd.kubernetes.protobuf", 406, PLAIN, "", NOT_ACCEPTABLE),
    ("POST", "/pods", "text/html", 405, PLAIN, "GET", "405: Method Not Allowed"),
    ("GET", "/pods/x", "", 404, PLAIN, "", "404: Page Not Found"),
    ("PUT", "/stats/summary/", "", 405, PLAIN, "GET, POST", "405: Method Not Allowed"),
    ("GET", "/stats/summary/x", "", 404, PLAIN, "", "404: Page Not Found"),
    ("GET", "/metrics/resource/v1beta1", "", 404, PLAIN, "", "404 page not found\n"),
    ("GET", "/statusz/", "", 404, PLAIN, "", "404 page not found\n"),
    ("GET", "/containerLogs/default/web/c/", "", 200, "", "", "..."),
    ("GET", "/containerLogs/default/web/c?stream=", "", 422, PLAIN, "", "{\"message\": \"Invalid request.\"}"),
    ("GET", "/containerLogs/default/web/c?stream=Stderr", "", 400, PLAIN, "", "unable to return the given log stream: \"Stderr\". Please enable PodLogsQuerySplitStreams feature gate in kubelet"),
    ("GET", "/containerLogs/default/web/c?tailLines=1;limitBytes=2", "", 200, "", "", "..."),
    ("GET", "/containerLogs/default/web/c?tailLines=%zz", "", 200, "", "", "..."),
    ("GET", "/containerLogs/default/web/c?tailLines=x", "", 400, PLAIN, "", "{\"message\": \"Unable to decode query.\"}"),
    ("GET", "/portForward/default/over", "", 500, PLAIN, "", "pod not found (\"over_default\")"),
    ("GET", "/statusz", "application/json", 406, "application/json", "", "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"message\":\"only the following media types are accepted: application/json, application/yaml, text/plain\",\"reason\":\"NotAcceptable\",\"code\":406}\n"),
    ("GET", "/statusz", "text/html", 406, "application/json", "", STATUS_406),
    ("GET", "/statusz", "application/cbor;as=Statusz;v=v1beta1;g=config.k8s.io", 406, "application/json", "", STATUS_406),
    // But for the versions: there is no Go here, and no /flagz.
    ("GET", "/statusz", "application/json;as=Statusz;v=v1beta1;g=config.k8s.io", 200, "application/json;g=config.k8s.io;v=v1beta1;as=Statusz", "", "{\"kind\":\"Statusz\",\"apiVersion\":\"config.k8s.io/v1beta1\",\"metadata\":{\"name\":\"kubelet\"},\"startTime\":\"2026-11-23T08:31:45Z\",\"uptimeSeconds\":0,\"goVersion\":\"none\",\"binaryVersion\":\"1.36.2\",\"emulationVersion\":\"1.36\",\"paths\":[\"/configz\",\"/debug\",\"/healthz\",\"/metrics\"]}\n"),
    ("GET", "/statusz", "application/yaml;as=Statusz;v=v1beta1;g=config.k8s.io", 200, "application/yaml;g=config.k8s.io;v=v1beta1;as=Statusz", "", "apiVersion: config.k8s.io/v1beta1\nbinaryVersion: 1.36.2\nemulationVersion: \"1.36\"\ngoVersion: none\nkind: Statusz\nmetadata:\n  name: kubelet\npaths:\n- /configz\n- /debug\n- /healthz\n- /metrics\nstartTime: \"2026-11-23T08:31:45Z\"\nuptimeSeconds: 0\n"),
    ("GET", "/statusz", "*/*", 200, PLAIN, "", "\nkubelet statusz\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n\nStarted: Mon Nov 23 08:31:45 UTC 2026\nUp: 0 hr 00 min 00 sec\nGo version: none\nBinary version: 1.36.2\nEmulation version: 1.36\nPaths: /configz /debug /healthz /metrics\n"),
    ("GET", "/statusz", "application/json;as=Statusz;v=v1alpha1;g=config.k8s.io", 200, "application/json;g=config.k8s.io;v=v1alpha1;as=Statusz", "", "..."),
    ("POST", "/run/default/web/c?cmd=nothere", "", 500, PLAIN, "", "rpc error: code = Unknown desc = failed to exec in container"),
    ("POST", "/run/default/web/c/", "", 500, PLAIN, "", "rpc error: code = Unknown desc = failed to exec in container"),
];

// API-007, API-008, API-009, API-060, API-062, API-067, API-080, API-083, API-113, API-115
#[tokio::test(start_paused = true)]
async fn requests_are_answered_as_a_kubelet_answered_them() {
    let world = World::new().start().await;
    world.api.allowed.lock().unwrap().extend(["admin update stats", "admin update pods", "admin get statusz"].map(str::to_owned));
    world.run_pod("web");
    let over = pod("over", &json!({ "terminated": { "exitCode": 0 } }), "r://c2");
    let uid = PodUid::new(over.metadata.uid.as_deref().unwrap());
    world.view.pods.lock().unwrap().push(Arc::new(over));
    let mut seen = observation(&uid, "over", ContainerState::Exited);
    seen.sandboxes[0].state = SandboxState::NotReady;
    world.observe(&uid, seen);
    let refused = kubelet::failure::Failure::new(kubelet::failure::FailureKind::Other, "failed to exec in container");
    world.runtime.answers.lock().unwrap().exec = Some(Err(refused.with_code("Unknown")));
    for (method, path, accept, status, content_type, allow, body) in RECORDED {
        let request = Request::builder().method(method).uri(path).header("Host", "n1");
        let request = request.header("Authorization", format!("Bearer {ADMIN}")).header("Accept", accept);
        let answer = world.request(MAIN, request.body(Body::empty()).unwrap()).await;
        let told = (answer.status, answer.header("content-type"), answer.header("allow"));
        assert_eq!(told, (status, content_type, allow), "{method} {path} {accept}: {}", answer.body);
        assert!(body == "..." || answer.body == body, "{method} {path} {accept}: {:?}", answer.body);
        let warns = answer.header("warning").starts_with("299 - \"This version of the statusz endpoint is deprecated.");
        assert_eq!(warns, accept.contains("v1alpha1"), "{accept}");
    }
}
