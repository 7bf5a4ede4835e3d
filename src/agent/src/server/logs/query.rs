//! The options of a request for logs.
//! Upstream: pkg/kubelet/server/server.go (getContainerLogs), pkg/apis/core/validation (ValidatePodLogOptions).
//! Differs: nothing on purpose.

use std::time::Duration;

use jiff::Timestamp;

use super::printer::Wanted;
use crate::server::query::Pairs;

/// Why options are refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A number or a time cannot be read: 400.
    Undecodable,
    /// They make no sense: 422.
    Invalid,
}

/// The options of one request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LogOptions {
    pub(crate) wanted: Wanted,
    pub(crate) previous: bool,
    /// A stream other than all (API-083).
    pub(crate) stream: Option<String>,
}

/// Reads options (API-080, API-081).
pub(crate) fn parse(query: &Pairs, now: Timestamp) -> Result<LogOptions, Refused> {
    let tail = match query.first("tail").filter(|tail| !tail.is_empty()) {
        Some("all") => None,
        Some(tail) => Some(number(tail)?),
        None => optional(query, "tailLines")?,
    };
    let limit = optional(query, "limitBytes")?;
    let since_seconds = optional(query, "sinceSeconds")?;
    let since_time = match query.first("sinceTime").filter(|time| !time.is_empty()) {
        Some(time) => Some(time.parse::<Timestamp>().map_err(|_| Refused::Undecodable)?),
        None => None,
    };
    let stream = query.first("stream").filter(|stream| *stream != "All");
    let known_stream = stream.is_none_or(|stream| stream == "Stdout" || stream == "Stderr");
    let sensible = tail.is_none_or(|tail| tail >= 0)
        && limit.is_none_or(|limit| limit >= 1)
        && since_seconds.is_none_or(|seconds| seconds >= 1)
        && !(since_seconds.is_some() && since_time.is_some())
        && known_stream
        && !(stream.is_some() && tail.is_some());
    if !sensible {
        return Err(Refused::Invalid);
    }
    let since_seconds = since_seconds.map(|seconds| {
        let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        now.checked_sub(seconds).unwrap_or(Timestamp::MIN)
    });
    let wanted = Wanted {
        follow: switch(query, "follow"),
        timestamps: switch(query, "timestamps"),
        since: since_time.or(since_seconds),
        tail: tail.and_then(|tail| u64::try_from(tail).ok()),
        limit_bytes: limit.and_then(|limit| u64::try_from(limit).ok()),
    };
    Ok(LogOptions { wanted, previous: switch(query, "previous"), stream: stream.map(str::to_owned) })
}

fn optional(query: &Pairs, key: &str) -> Result<Option<i64>, Refused> {
    query.first(key).map(number).transpose()
}

fn number(text: &str) -> Result<i64, Refused> {
    text.parse().map_err(|_| Refused::Undecodable)
}

/// Whatever is not plainly a no is a yes.
fn switch(query: &Pairs, key: &str) -> bool {
    query.first(key).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(query: &str) -> Result<LogOptions, Refused> {
        let pairs = Pairs::of(&format!("/containerLogs/a/b/c?{query}").parse().unwrap());
        parse(&pairs, "2026-11-23T08:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_switch_is_on_unless_it_is_plainly_off() {
        // API-080
        for (query, follow) in
            [("", false), ("follow=0", false), ("follow=false", false), ("follow", true), ("follow=true", true), ("follow=x", true)]
        {
            assert_eq!(options(query).unwrap().wanted.follow, follow, "{query}");
        }
    }

    #[test]
    fn options_are_read() {
        // API-080
        assert_eq!(options("tail=all").unwrap().wanted.tail, None);
        assert_eq!(options("tail=3&tailLines=9").unwrap().wanted.tail, Some(3));
        assert_eq!(options("tailLines=0").unwrap().wanted.tail, Some(0));
        assert_eq!(options("sinceSeconds=60").unwrap().wanted.since, Some("2026-11-23T07:59:00Z".parse().unwrap()));
        let at = options("sinceTime=2026-11-23T01%3A02%3A03%2B02:00").unwrap().wanted.since;
        assert_eq!(at, Some("2026-11-22T23:02:03Z".parse().unwrap()));
        assert_eq!(options("sinceSeconds=9223372036854775807").unwrap().wanted.since, Some(Timestamp::MIN));
        assert_eq!(options("stream=Stdout").unwrap().stream.as_deref(), Some("Stdout"));
        assert_eq!(options("stream=All").unwrap().stream, None);
    }

    #[test]
    fn what_cannot_be_read_is_told_apart_from_what_makes_no_sense() {
        // API-080, API-081
        for query in ["tailLines=x", "limitBytes=", "sinceSeconds=1.5", "sinceTime=yesterday"] {
            assert_eq!(options(query), Err(Refused::Undecodable), "{query}");
        }
        let both = "sinceSeconds=1&sinceTime=2026-11-23T01:02:03Z";
        for query in ["tailLines=-1", "limitBytes=0", "sinceSeconds=0", both, "stream=", "stream=Both", "stream=Stderr&tailLines=1"]
        {
            assert_eq!(options(query), Err(Refused::Invalid), "{query}");
        }
    }

    #[test]
    fn mangled_query_is_options_or_a_refusal() {
        let seeds: [&[u8]; 3] = [
            b"tailLines=5&limitBytes=1&sinceSeconds=60&follow=true&timestamps=1&previous=0",
            b"sinceTime=2026-11-23T08:00:01%2B01:00&stream=Stdout",
            b"tail=all&command=%ff%00&sinceSeconds=9223372036854775807",
        ];
        crate::mangled::each("log query", &seeds, |input| {
            if let Ok(uri) = format!("/containerLogs/ns/p/c?{}", crate::mangled::text(input)).parse() {
                let pairs = Pairs::of(&uri);
                let _options = (parse(&pairs, Timestamp::MAX), parse(&pairs, Timestamp::UNIX_EPOCH));
            }
        });
    }
}
