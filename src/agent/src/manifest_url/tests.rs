use std::time::Duration;

use kubelet::sensitive::Sensitive;

use super::*;
use crate::go_http::testing::Answers;

fn call(url: &str, headers: &[(&str, &str)]) -> FetchCall {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()])).collect();
    FetchCall { url: Sensitive::new(url.to_owned()), headers: Sensitive::new(headers), within: Duration::from_secs(10) }
}

fn says(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

async fn ask_for(answers: &[String], call: &FetchCall) -> (Result<Vec<u8>, String>, Vec<String>) {
    let net = Answers::of(answers.to_vec());
    let answer = fetch(&net, call).await;
    (answer, net.requests())
}

// POD-010: pkg/kubelet/config/http.go; Go's net/http writes host and agent itself and leaves a given Host out.
#[tokio::test]
async fn headers_are_sent_and_an_answer_is_its_body() {
    let call = call("http://example.com:8080/pods?a=b", &[("X-Token", " t "), ("Host", "elsewhere")]);
    let (answer, requests) = ask_for(&[says("200 OK", "a pod")], &call).await;
    assert_eq!(answer.unwrap(), b"a pod");
    let expected = "GET /pods?a=b HTTP/1.1\r\nX-Token: t\r\nUser-Agent: Go-http-client/1.1\r\nHost: example.com:8080\r\n\r\n";
    assert_eq!(requests, [expected]);
}

// POD-010: what is not 200 is an error, whatever else is in it; no login or query of the URL shows in it.
#[tokio::test]
async fn other_statuses_are_errors_that_show_no_secret() {
    let call = call("http://user:hunter2@example.com/pods?token=hunter2", &[]);
    for (status, told) in [
        ("404 Not Found", "http://example.com/pods: 404 Not Found"),
        ("204 No Content", "http://example.com/pods: 204 No Content"),
        ("503 Service Unavailable", "http://example.com/pods: 503 Service Unavailable"),
    ] {
        let (answer, requests) = ask_for(&[format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")], &call).await;
        assert_eq!(answer.unwrap_err(), told);
        assert!(requests[0].contains("Authorization: Basic dXNlcjpodW50ZXIy\r\n"), "{requests:?}");
    }
    let (refused, _) = ask_for(&[], &call).await;
    assert_eq!(refused.unwrap_err(), "Get \"http://example.com/pods\": dial tcp example.com:80: connect: connection refused");
}

#[tokio::test]
async fn empty_answers_are_told_apart_from_errors() {
    let (answer, _) = ask_for(&[says("200 OK", "")], &call("http://example.com/", &[])).await;
    assert_eq!(answer.unwrap(), b"");
}

// POD-010: maxConfigLength, with the error of k8s.io/utils/io.
#[tokio::test]
async fn answers_are_bounded() {
    let (most, call) = ("x".repeat((10 << 20) - 1), call("http://example.com/", &[]));
    assert_eq!(ask_for(&[says("200 OK", &most)], &call).await.0.unwrap().len(), most.len());
    let (answer, _) = ask_for(&[says("200 OK", &format!("{most}x"))], &call).await;
    assert_eq!(answer.unwrap_err(), "the read limit is reached");
    let endless = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()
        + &format!("400\r\n{}\r\n", "x".repeat(1024)).repeat(11 << 10);
    assert_eq!(ask_for(&[endless], &call).await.0.unwrap_err(), "the read limit is reached");
}

fn to(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
}

// POD-010: net/http/client.go (send, makeHeadersCopier) and net/url (ResolveReference): the login of a URL is part of that URL. It goes
// where a location without a host leads, and nowhere else, not even to the same host.
#[tokio::test]
async fn login_of_the_url_goes_to_no_other_url() {
    let call = call("http://user:hunter2@example.com/a", &[("Cookie", "c")]);
    let answers = [to("b"), to("http://example.com/c"), to("//u2:p2@sub.example.com/d"), to("/e"), to("http://else.com/f")];
    let (answer, requests) = ask_for(&[answers.as_slice(), &[says("200 OK", "found")]].concat(), &call).await;
    assert_eq!(answer.unwrap(), b"found");
    let sent = |request: &String, name: &str| request.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
    let logins: Vec<_> = requests.iter().map(|request| sent(request, "Authorization: Basic ")).collect();
    let (user, u2) = (Some("dXNlcjpodW50ZXIy".to_owned()), Some("dTI6cDI=".to_owned()));
    assert_eq!(logins, [user.clone(), user, None, u2.clone(), u2, None]);
    let cookies: Vec<bool> = requests.iter().map(|request| sent(request, "Cookie: c").is_some()).collect();
    assert_eq!(cookies, [true, true, true, true, true, false]);
    assert!(requests[1].contains("Referer: http://example.com/a\r\n"), "{}", requests[1]);
}

// POD-010: net/http/client.go: `refererForURL` keeps what was given; who was once sent elsewhere gets no credentials after he came back
// (stripSensitiveHeaders).
#[tokio::test]
async fn given_headers_go_along_and_credentials_do_not_come_back() {
    let call = call("http://example.com/a", &[("Referer", "http://me/"), ("Authorization", "Bearer t"), ("X-Other", "o")]);
    let answers = [to("http://else.com/"), to("http://example.com/b"), says("200 OK", "found")];
    let (_, requests) = ask_for(&answers, &call).await;
    assert_eq!(requests.len(), 3);
    for (request, trusted) in requests.iter().zip([true, false, false]) {
        assert_eq!(request.contains("Authorization: Bearer t"), trusted, "{request}");
        assert!(request.contains("Referer: http://me/\r\n") && request.contains("X-Other: o\r\n"), "{request}");
    }
}

// Go's net/http (Client): ten requests at most; credentials stay with the host that they were given for, and hosts below it.
#[tokio::test]
async fn redirects_are_followed_and_other_hosts_get_no_credentials() {
    let call = call("http://example.com/a", &[("Authorization", "Bearer t"), ("X-Other", "o")]);
    let answers = [to("/b"), to("http://sub.example.com/c"), to("http://notexample.com/d"), says("200 OK", "found")];
    let (answer, requests) = ask_for(&answers, &call).await;
    assert_eq!(answer.unwrap(), b"found");
    let trusted: Vec<bool> = requests.iter().map(|request| request.contains("Authorization: Bearer t")).collect();
    assert_eq!(trusted, [true, true, true, false]);
    assert!(
        requests[3].contains("X-Other: o")
            && requests[3].contains("Host: notexample.com")
            && requests[3].contains("Referer: http://sub.example.com/c")
    );
    let (answer, requests) = ask_for(&vec![to("/a"); 11], &call).await;
    assert_eq!((answer.unwrap_err().as_str(), requests.len()), ("Get \"http://example.com/a\": stopped after 10 redirects", 10));
}

#[tokio::test(start_paused = true)]
async fn silence_ends_after_ten_seconds() {
    let net = crate::go_http::testing::One::of(tokio::io::duplex(64).0);
    let why = fetch(&net, &call("http://example.com/", &[])).await.unwrap_err();
    assert!(why.starts_with("Get \"http://example.com/\": "), "{why}");
}

#[tokio::test]
async fn what_cannot_be_asked_is_an_error_without_its_text() {
    for url in ["", "ftp://user:hunter2@a/", "http://", "http://user:hunter2@[::1", "http://user:%zz@a/", "://hunter2"] {
        let why = ask_for(&[], &call(url, &[])).await.0.unwrap_err();
        assert!(!why.contains("hunter2") && !why.is_empty(), "{url}: {why}");
    }
    for location in ["http://user:hunter2@h:port/?sig=hunter2", "ftp://user:hunter2@h/?hunter2"] {
        let why = ask_for(&[to(location)], &call("http://a/", &[])).await.0.unwrap_err();
        assert!(why.starts_with("Get \"http://a/\": ") && !why.contains("hunter2"), "{location}: {why}");
    }
    let bad = ask_for(&[], &call("http://a/", &[("X", "hunter2\n")])).await.0.unwrap_err();
    assert_eq!(bad, "net/http: invalid header field value for \"X\"");
    let bad = ask_for(&[], &call("http://a/", &[("X Y", "hunter2")])).await.0.unwrap_err();
    assert_eq!(bad, "net/http: invalid header field name \"X Y\"");
}

#[test]
fn failures_are_counted_from_the_last_success() {
    let failures = AtomicU32::new(0);
    (0..9).for_each(|_| tell(&failures, "u", Some("refused")));
    assert_eq!(failures.load(Ordering::Relaxed), TOLD);
    tell(&failures, "u", None);
    assert_eq!(failures.load(Ordering::Relaxed), 0);
}
