//! One line of a container's log, as the runtime wrote it.
//! Upstream: k8s.io/cri-client/pkg/logs (parseCRILog, parseDockerJSONLog).
//! Differs: nothing on purpose.

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimeParser;
use jiff::tz::Offset;
use serde::Deserialize;

/// In which of the two forms a log is; its first line decides (API-087).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Cri,
    DockerJson,
}

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) at: Timestamp,
    /// The zone in which the runtime wrote that, in which it is shown too (API-088).
    pub(crate) zone: Offset,
    /// With its line feed, unless more of the same logical line follows.
    pub(crate) text: Vec<u8>,
    /// Whether the next line belongs to the same logical one, as the runtime marked it.
    pub(crate) partial: bool,
}

impl Format {
    /// The form that a first line is in.
    pub(crate) fn of(line: &[u8]) -> Option<Self> {
        [Self::Cri, Self::DockerJson].into_iter().find(|format| format.parse(line).is_some())
    }

    /// A line, line feed included; `None` if it is not of this form.
    pub(crate) fn parse(self, line: &[u8]) -> Option<Line> {
        match self {
            Self::Cri => parse_cri(line),
            Self::DockerJson => parse_docker(line),
        }
    }
}

/// `TIME stdout|stderr P|F[:TAG..] TEXT`
fn parse_cri(line: &[u8]) -> Option<Line> {
    let (time, rest) = split(line)?;
    let (at, zone) = moment(time)?;
    let (stream, rest) = split(rest)?;
    if stream != b"stdout" && stream != b"stderr" {
        return None;
    }
    let (tags, text) = split(rest)?;
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    let text = if partial { text.strip_suffix(b"\n").unwrap_or(text) } else { text };
    Some(Line { at, zone, text: text.to_vec(), partial })
}

/// A moment, and how far from UTC the clock was that it was read from.
fn moment(text: &[u8]) -> Option<(Timestamp, Offset)> {
    const PARSER: DateTimeParser = DateTimeParser::new();
    let pieces = PARSER.parse_pieces(text).ok()?;
    let zone = pieces.to_numeric_offset()?;
    let read = pieces.date().to_datetime(pieces.time()?);
    Some((zone.to_timestamp(read).ok()?, zone))
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == b' ')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

#[derive(Deserialize)]
struct DockerLine {
    #[serde(default)]
    log: String,
    time: String,
}

fn parse_docker(line: &[u8]) -> Option<Line> {
    let DockerLine { log, time } = serde_json::from_slice(line).ok()?;
    let (at, zone) = moment(time.as_bytes())?;
    Some(Line { at, zone, text: log.into_bytes(), partial: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(format: Format, line: &str) -> Option<String> {
        format.parse(line.as_bytes()).map(|line| String::from_utf8(line.text).unwrap())
    }

    #[test]
    fn a_cri_line_is_time_stream_tags_and_text() {
        // API-087, LOG-006
        let time = "2016-10-06T00:17:09.669794202Z";
        let cases = [
            ("stdout F log content 1\n", Some("log content 1\n")),
            ("stderr F  two  spaces \n", Some(" two  spaces \n")),
            ("stdout P a part\n", Some("a part")),
            ("stdout P:more:tags a part\n", Some("a part")),
            ("stdout F:more F\n", Some("F\n")),
            ("stdout F \n", Some("\n")),
            ("stdin F text\n", None),
            ("stdout F\n", None),
            ("stdout", None),
        ];
        for (rest, expected) in cases {
            assert_eq!(text(Format::Cri, &format!("{time} {rest}")).as_deref(), expected, "{rest:?}");
        }
        for time in ["yesterday", "2016-10-06", "2016-10-06T00:17:09", "2016-10-06T00:17Q"] {
            assert_eq!(text(Format::Cri, &format!("{time} stdout F text\n")), None, "{time}");
        }
    }

    #[test]
    fn a_docker_line_is_json() {
        // API-087, LOG-006
        let line = r#"{"log":"one\n","stream":"stdout","time":"2016-10-20T18:39:20.57606443Z"}"#;
        assert_eq!(Format::of(line.as_bytes()), Some(Format::DockerJson));
        assert_eq!(text(Format::DockerJson, line).as_deref(), Some("one\n"));
        assert_eq!(Format::of(b"neither this nor that\n"), None);
    }
}
