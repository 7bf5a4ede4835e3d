use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::go_http::testing::{Answers, One};

fn target(path: &str, headers: &[(&str, &str)]) -> Target {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Target { url: Url::of_spec(false, "10.0.0.2", 8080, path), headers, lifecycle: false }
}

async fn outcome(net: &Answers, target: &Target) -> ProbeOutcome {
    probe(net, target, Duration::from_secs(1)).await.unwrap()
}

fn failed(text: &str) -> ProbeOutcome {
    ProbeOutcome::Failure(text.to_owned())
}

const WELL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

fn moved(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 4\r\nConnection: close\r\n\r\ngone")
}

// POD-247: to the byte as recorded of the kubelet (case 092).
#[tokio::test(start_paused = true)]
async fn request_is_the_kubelets_to_the_byte() {
    let net = Answers::of([WELL, WELL, WELL]);
    let own = [("Host", "example.com"), ("x-lower", "v1"), ("X-Twice", "one"), ("X-Twice", "two")];
    outcome(&net, &target("/a b?x=1&y=%20#frag", &own)).await;
    outcome(&net, &target("", &[])).await;
    outcome(&net, &target("rel", &[("User-Agent", ""), ("Accept", "text/plain")])).await;
    let expected = [
        "GET /a%20b?x=1&y=%20 HTTP/1.1\r\nHost: example.com\r\nUser-Agent: kube-probe/1.36\r\nAccept: */*\r\nX-Lower: v1\r\n\
         X-Twice: one\r\nX-Twice: two\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 10.0.0.2:8080\r\nUser-Agent: kube-probe/1.36\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        "GET /rel HTTP/1.1\r\nHost: 10.0.0.2:8080\r\nAccept: text/plain\r\nConnection: close\r\n\r\n",
    ];
    assert_eq!(net.requests(), expected);
}

// POD-247, R7: an empty Host is none; an empty Accept takes the default away.
#[test]
fn empty_headers_are_as_in_gos_client() {
    let headers = headers(&target("/", &[("Host", ""), ("Accept", ""), ("Content-Length", "7")])).unwrap();
    assert_eq!(headers[HOST], "10.0.0.2:8080");
    assert!(!headers.contains_key(ACCEPT) && !headers.contains_key(CONTENT_LENGTH));
}

// POD-247: 700 KB of spec with 25,000 names are more than the map of headers holds, which panics.
#[test]
fn more_headers_than_can_be_sent_are_a_failure() {
    let numbered = |number: usize| (0..number).map(|n| (format!("h{n}"), "v".to_owned())).collect();
    let many = Target { headers: numbered(25_000), ..target("/", &[]) };
    assert_eq!(headers(&many).unwrap_err(), "the request has 25000 headers, more than the 4096 that are allowed");
    let most = Target { headers: numbered(4096), ..target("/", &[]) };
    assert_eq!(headers(&most).unwrap().len(), 4100);
}

// POD-247
#[tokio::test(start_paused = true)]
async fn answer_that_comes_with_the_end_of_its_connection_counts() {
    let ill = "HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\n\r\nno";
    let net = Answers::of([WELL, ill, "", "nonsense\n"]);
    let target = target("healthz", &[]);
    assert_eq!(outcome(&net, &target).await, ProbeOutcome::Success);
    assert_eq!(outcome(&net, &target).await, failed("HTTP probe failed with statuscode: 500"));
    assert_eq!(outcome(&net, &target).await, failed("Get \"http://10.0.0.2:8080/healthz\": EOF"));
    // As recorded of the kubelet (case 098).
    assert_eq!(outcome(&net, &target).await, failed("Get \"http://10.0.0.2:8080/healthz\": malformed HTTP response \"nonsense\""));
}

// POD-247, R6; messages as recorded of the kubelet (cases 085, 087) and in net/http's Client.
#[tokio::test(start_paused = true)]
async fn redirects_on_the_same_host_are_followed() {
    let away = moved("http://0.0.0.0/");
    let to = |location: &str| moved(location);
    let net = Answers::of([to("sick"), to("?ready=no"), to("//10.0.0.2:8080/x"), "HTTP/1.1 404 Not Found\r\n\r\n".to_owned()]);
    assert_eq!(outcome(&net, &target("/a/b", &[("Host", "h")])).await, failed("HTTP probe failed with statuscode: 404"));
    let first_lines: Vec<String> = net.requests().iter().map(|r| r.lines().take(2).collect::<Vec<_>>().join(" ")).collect();
    let expected = [
        "GET /a/b HTTP/1.1 Host: h",
        "GET /a/sick HTTP/1.1 Host: h",
        "GET /a/sick?ready=no HTTP/1.1 Host: h",
        "GET /x HTTP/1.1 Host: 10.0.0.2:8080",
    ];
    assert_eq!(first_lines, expected);
    assert!(net.requests()[1].contains("Referer: http://10.0.0.2:8080/a/b\r\n"));
    let warned = ProbeOutcome::Warning("Probe terminated redirects, Response body: gone".to_owned());
    assert_eq!(outcome(&Answers::of([away.as_str()]), &target("/", &[])).await, warned);
    // No Location, and statuses that lead nowhere.
    let nowhere = ["HTTP/1.1 302 Found\r\nContent-Length: 4\r\n\r\ngone", "HTTP/1.1 304 Not Modified\r\nLocation: /x\r\n\r\n"];
    assert_eq!(outcome(&Answers::of([nowhere[0]]), &target("/", &[])).await, warned);
    let empty = ProbeOutcome::Warning("Probe terminated redirects, Response body: ".to_owned());
    assert_eq!(outcome(&Answers::of([nowhere[1]]), &target("/", &[])).await, empty);
}

// POD-247: as recorded of the kubelet: another host is not followed, whatever would be spoken there.
#[tokio::test(start_paused = true)]
async fn redirect_to_another_host_ends_whatever_its_scheme() {
    let warned = ProbeOutcome::Warning("Probe terminated redirects, Response body: gone".to_owned());
    assert_eq!(outcome(&Answers::of([moved("ftp://elsewhere/")]), &target("/", &[])).await, warned);
    let told = failed("Get \"http://10.0.0.2:8080/\": unsupported protocol scheme \"ftp\"");
    assert_eq!(outcome(&Answers::of([moved("ftp://10.0.0.2/")]), &target("/", &[])).await, told);
}

// POD-247: as recorded of the kubelet with `nc -l < answer`: a server may answer before it is asked, and hang up.
#[tokio::test(start_paused = true)]
async fn answer_that_comes_before_the_request_counts() {
    for (answer, expected) in [
        (WELL, ProbeOutcome::Success),
        ("HTTP/1.1 204 No Content\r\n\r\n", ProbeOutcome::Success),
        (
            "HTTP/1.1 500 Bad\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            failed("HTTP probe failed with statuscode: 500"),
        ),
    ] {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        theirs.write_all(answer.as_bytes()).await.unwrap();
        theirs.shutdown().await.unwrap();
        let answered = probe(&One::of(ours), &target("/", &[]), Duration::from_secs(1)).await.unwrap();
        assert_eq!(answered, expected);
    }
}

// POD-247: a ring ends after ten requests, and its error names the location as it was written there (net/http, Client.do).
#[tokio::test(start_paused = true)]
async fn ring_of_redirects_ends() {
    let net = Answers::of(vec![moved("/ring"); 11]);
    assert_eq!(outcome(&net, &target("/", &[])).await, failed("Get \"/ring\": stopped after 10 redirects"));
    assert_eq!(net.requests().len(), 10);
    let bad = Answers::of([moved("http://h:x/")]);
    let told = "Get \"http://10.0.0.2:8080/\": failed to parse Location header \"http://h:x/\"";
    assert_eq!(outcome(&bad, &target("/", &[])).await, failed(told));
}

// POD-247: net/http/transfer.go (parseTransferEncoding); url.Error quotes what it names.
#[tokio::test(start_paused = true)]
async fn codings_and_locations_that_go_refuses_are_told_in_its_words() {
    let twice = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned();
    let told = "Get \"http://10.0.0.2:8080/\": too many transfer encodings: [\"chunked\" \"chunked\"]";
    assert_eq!(outcome(&Answers::of([twice]), &target("/", &[])).await, failed(told));
    let ring = Answers::of(vec![moved("/a\"b"); 11]);
    assert_eq!(outcome(&ring, &target("/", &[])).await, failed("Get \"/a\\\"b\": stopped after 10 redirects"));
}

// POD-247: the beginning of a big body is enough; one that does not come is no verdict.
#[tokio::test(start_paused = true)]
async fn body_is_read_so_far_and_no_further() {
    let big = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(BODY_LIMIT));
    assert_eq!(outcome(&Answers::of([big.as_str()]), &target("/", &[])).await, ProbeOutcome::Success);
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nx";
    let failure = probe(&Answers::of([cut]), &target("/", &[]), Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(failure.message, "unexpected EOF");
}

// POD-247, POD-230; as recorded of the kubelet (case 088), and pkg/kubelet/lifecycle/handlers.go (isHTTPResponseError).
#[tokio::test(start_paused = true)]
async fn plain_answer_to_a_tls_handshake_is_named() {
    let plain = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    let https = Target { url: Url::of_spec(true, "10.0.0.2", 8080, "/healthz"), ..target("/", &[("Authorization", "x")]) };
    let told = "Get \"https://10.0.0.2:8080/healthz\": http: server gave HTTP response to HTTPS client";
    assert_eq!(outcome(&Answers::of([plain]).at_once(), &https).await, failed(told));
    let hook = Target { lifecycle: true, ..https };
    let net = Answers::of([plain, WELL]).at_once();
    let warned = "request to HTTPS lifecycle hook 10.0.0.2:8080 got HTTP response, retry with HTTP succeeded";
    assert_eq!(outcome(&net, &hook).await, ProbeOutcome::Warning(warned.to_owned()));
}

// C1 of the findings; as recorded of the kubelet (case 085).
#[tokio::test(start_paused = true)]
async fn refused_connection_is_told_in_gos_words() {
    let net = Answers::none();
    let told = "Get \"http://10.0.0.2:8080/healthz\": dial tcp 10.0.0.2:8080: connect: connection refused";
    assert_eq!(outcome(&net, &target("/healthz", &[])).await, failed(told));
}

// POD-247: as recorded of a kubelet 1.36.2: what Go's client takes, or not, is what makes a pod ready.
#[tokio::test(start_paused = true)]
async fn answers_count_that_gos_client_takes() {
    let answer = |headers: &str| format!("HTTP/1.1 200 OK\r\n{headers}\r\nConnection: close\r\n\r\n");
    let target = target("/x", &[]);
    for headers in ["A: b\r\n folded", "A : b"] {
        let net = Answers::of([answer(headers)]);
        assert_eq!(outcome(&net, &target).await, ProbeOutcome::Success, "{headers}");
    }
    let net = Answers::of([answer("Transfer-Encoding: gzip")]);
    assert_eq!(outcome(&net, &target).await, failed("Get \"http://10.0.0.2:8080/x\": unsupported transfer encoding: \"gzip\""));
    let net = Answers::of([moved("mailto:x")]);
    assert_eq!(outcome(&net, &target).await, ProbeOutcome::Warning("Probe terminated redirects, Response body: gone".to_owned()));
}

// POD-230, POD-247: net/http (Transport.roundTrip): a probe's client keeps no connection and unpacks nothing, a hook's is the usual one.
#[test]
fn probes_and_hooks_have_the_clients_that_a_kubelet_has() {
    let all = |target: &Target, name: HeaderName| -> Vec<String> {
        headers(target).unwrap().get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    let hook = |headers: &[(&str, &str)]| Target { lifecycle: true, ..target("/", headers) };
    assert_eq!(all(&hook(&[]), ACCEPT_ENCODING), ["gzip"]);
    assert!(all(&hook(&[]), CONNECTION).is_empty());
    assert!(all(&hook(&[("Range", "bytes=0-1")]), ACCEPT_ENCODING).is_empty());
    assert!(all(&target("/", &[]), ACCEPT_ENCODING).is_empty());
    assert_eq!(all(&target("/", &[("Connection", "keep-alive")]), CONNECTION), ["keep-alive", "close"]);
    assert_eq!(all(&target("/", &[("Connection", "foo, Close")]), CONNECTION), ["foo, Close"]);
    assert_eq!(all(&target("/", &[("Connection", "Upgrade"), ("Upgrade", "h2c")]), CONNECTION), ["Upgrade"]);
    let wrong = headers(&target("/", &[("x-nl", "a\nb")])).unwrap_err();
    assert_eq!(wrong, "net/http: invalid header field value for \"X-Nl\"");
}
