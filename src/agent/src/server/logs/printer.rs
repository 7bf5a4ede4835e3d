//! From bytes of a log file to bytes of an answer: lines found, filtered, stamped and cut, in bounded memory.
//! Upstream: k8s.io/cri-client/pkg/logs (ReadLogs, logWriter).
//! Differs: a line longer than 1 MiB is passed on in pieces instead of being held whole.

use jiff::Timestamp;

use super::line::{Format, Line};

/// The longest piece of a line that is held.
const LONGEST: usize = 1 << 20;

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) follow: bool,
    pub(crate) timestamps: bool,
    pub(crate) since: Option<Timestamp>,
    pub(crate) tail: Option<u64>,
    pub(crate) limit_bytes: Option<u64>,
}

/// The first line is in neither form.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to get parse function: unsupported log format: {0:?}")]
pub(crate) struct UnknownFormat(String);

/// The state between two blocks of a file.
pub(crate) struct Printer {
    timestamps: bool,
    since: Option<Timestamp>,
    /// How many physical lines may still be printed.
    lines: Option<u64>,
    /// How many bytes may still be printed.
    bytes: Option<u64>,
    format: Option<Format>,
    /// The beginning of a line whose end was not read yet.
    begun: Vec<u8>,
    /// The line that is being read, if it was passed on in part.
    overlong: Option<Overlong>,
    /// Whether the next text begins a logical line.
    new_line: bool,
}

/// A line too long to be held.
#[derive(Clone, Copy)]
struct Overlong {
    shown: bool,
    partial: bool,
}

impl Printer {
    pub(crate) fn new(wanted: &Wanted) -> Self {
        Self {
            timestamps: wanted.timestamps,
            since: wanted.since,
            // While following, the number of lines only says where to begin (API-089).
            lines: wanted.tail.filter(|_| !wanted.follow),
            bytes: wanted.limit_bytes,
            format: None,
            begun: Vec::new(),
            overlong: None,
            new_line: true,
        }
    }

    /// Whether nothing more will be printed.
    pub(crate) fn is_done(&self) -> bool {
        self.lines == Some(0) || self.bytes == Some(0)
    }

    /// Takes the next bytes of the file.
    pub(crate) fn feed(&mut self, mut block: &[u8], out: &mut Vec<u8>) -> Result<(), UnknownFormat> {
        while let Some(end) = block.iter().position(|byte| *byte == b'\n') {
            if self.is_done() {
                return Ok(());
            }
            let (line, rest) = block.split_at(end + 1);
            block = rest;
            if self.begun.is_empty() {
                self.piece(line, true, out)?;
            } else {
                let mut whole = std::mem::take(&mut self.begun);
                whole.extend_from_slice(line);
                self.piece(&whole, true, out)?;
            }
        }
        self.begun.extend_from_slice(block);
        if self.begun.len() > LONGEST {
            let piece = std::mem::take(&mut self.begun);
            self.piece(&piece, false, out)?;
        }
        Ok(())
    }

    /// The file has ended, and what has no line feed is a line too.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), UnknownFormat> {
        let last = std::mem::take(&mut self.begun);
        if last.is_empty() || self.is_done() { Ok(()) } else { self.piece(&last, true, out) }
    }

    /// Another file begins: a line that the old one broke off has no other half.
    pub(crate) fn next_file(&mut self) {
        self.begun.clear();
        self.overlong = None;
    }

    fn piece(&mut self, piece: &[u8], ends: bool, out: &mut Vec<u8>) -> Result<(), UnknownFormat> {
        let format = match self.format {
            Some(format) => format,
            None => *self.format.insert(Format::of(piece).ok_or_else(|| unknown(piece))?),
        };
        match self.overlong {
            Some(line) => {
                let text = if ends && line.partial { piece.strip_suffix(b"\n").unwrap_or(piece) } else { piece };
                if line.shown {
                    self.print(text, out);
                }
                self.new_line = ends && !line.partial;
                self.overlong = (!ends).then_some(line);
            }
            None => {
                let line = format.parse(piece);
                let shown = line.as_ref().is_some_and(|line| self.since.is_none_or(|since| line.at >= since));
                let partial = line.as_ref().is_some_and(|line| line.partial);
                self.overlong = (!ends).then_some(Overlong { shown, partial });
                let Some(line) = line else { return Ok(()) };
                self.line(&line, shown, out);
            }
        }
        if ends && let Some(lines) = &mut self.lines {
            *lines -= 1;
        }
        Ok(())
    }

    /// API-088: what is too old counts as a line, but is not shown.
    fn line(&mut self, line: &Line, shown: bool, out: &mut Vec<u8>) {
        if shown {
            if self.timestamps && self.new_line {
                self.print(stamp(line).as_bytes(), out);
            }
            self.print(&line.text, out);
        }
        self.new_line = line.text.is_empty() || line.text.ends_with(b"\n");
    }

    fn print(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let text = match &mut self.bytes {
            Some(left) => {
                let fits = usize::try_from(*left).unwrap_or(usize::MAX).min(text.len());
                *left -= fits as u64;
                &text[..fits]
            }
            None => text,
        };
        out.extend_from_slice(text);
    }
}

/// Go's `2006-01-02T15:04:05.000000000Z07:00`, in the zone that the line is in.
fn stamp(line: &Line) -> String {
    let read = line.zone.to_datetime(line.at);
    let minutes = line.zone.seconds() / 60;
    if minutes == 0 {
        return format!("{read:.9}Z ");
    }
    let sign = if minutes < 0 { '-' } else { '+' };
    format!("{read:.9}{sign}{:02}:{:02} ", minutes.abs() / 60, minutes.abs() % 60)
}

fn unknown(line: &[u8]) -> UnknownFormat {
    const SHOWN: usize = 1024;
    UnknownFormat(String::from_utf8_lossy(&line[..line.len().min(SHOWN)]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2016-10-06T00:17:01.5Z stdout F one\n\
                       2016-10-06T00:17:02Z stdout P two, \n\
                       2016-10-06T00:17:03Z stdout F three\n\
                       not a line\n\
                       2016-10-06T00:17:04Z stderr F four\n";

    fn print(wanted: &Wanted, log: &str) -> String {
        // Whatever blocks the file comes in, the output is the same.
        let outputs: Vec<String> = [1, 7, log.len()].into_iter().map(|size| print_in_blocks(wanted, log, size)).collect();
        assert!(outputs.iter().all(|output| *output == outputs[0]), "{outputs:?}");
        outputs[0].clone()
    }

    fn print_in_blocks(wanted: &Wanted, log: &str, size: usize) -> String {
        let mut printer = Printer::new(wanted);
        let mut out = Vec::new();
        for block in log.as_bytes().chunks(size.max(1)) {
            printer.feed(block, &mut out).unwrap();
        }
        printer.finish(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn partial_lines_are_joined_and_bad_ones_skipped() {
        // API-087, LOG-006
        assert_eq!(print(&Wanted::default(), LOG), "one\ntwo, three\nfour\n");
        let unfinished = LOG.strip_suffix('\n').unwrap();
        assert_eq!(print(&Wanted::default(), unfinished), "one\ntwo, three\nfour");
    }

    #[test]
    fn a_timestamp_stands_once_before_each_logical_line() {
        // API-088, LOG-007
        let wanted = Wanted { timestamps: true, ..Wanted::default() };
        assert_eq!(
            print(&wanted, LOG),
            "2016-10-06T00:17:01.500000000Z one\n2016-10-06T00:17:02.000000000Z two, three\n2016-10-06T00:17:04.000000000Z four\n"
        );
    }

    // API-088: cri-client/pkg/logs/logs.go parses with RFC3339Nano and formats with `Z07:00`, so that the offset stays.
    #[test]
    fn timestamp_is_in_the_zone_of_its_line() {
        let wanted = Wanted { timestamps: true, ..Wanted::default() };
        for (written, shown) in [
            ("2026-11-23T10:00:00.5+02:00", "2026-11-23T10:00:00.500000000+02:00"),
            ("2026-01-01T00:30:00-03:30", "2026-01-01T00:30:00.000000000-03:30"),
            ("2026-11-23T10:00:00+00:00", "2026-11-23T10:00:00.000000000Z"),
            ("2026-11-23T10:00:00.123456789Z", "2026-11-23T10:00:00.123456789Z"),
        ] {
            assert_eq!(print(&wanted, &format!("{written} stdout F x\n")), format!("{shown} x\n"));
            let docker = format!("{{\"log\":\"x\\n\",\"stream\":\"stdout\",\"time\":\"{written}\"}}\n");
            assert_eq!(print(&wanted, &docker), format!("{shown} x\n"));
        }
        // What is too old is judged by the moment.
        let wanted = Wanted { since: Some("2026-11-23T08:30:00Z".parse().unwrap()), ..Wanted::default() };
        let log = "2026-11-23T10:00:00+02:00 stdout F old\n2026-11-23T08:00:00-01:00 stdout F new\n";
        assert_eq!(print(&wanted, log), "new\n");
    }

    #[test]
    fn lines_strictly_older_are_dropped() {
        // API-088, LOG-007
        let since = |since: &str| Wanted { since: Some(since.parse().unwrap()), ..Wanted::default() };
        assert_eq!(print(&since("2016-10-06T00:17:03Z"), LOG), "three\nfour\n");
        assert_eq!(print(&since("2016-10-06T00:17:03.000000001Z"), LOG), "four\n");
    }

    #[test]
    fn bytes_are_counted_and_cut_within_a_line() {
        // API-088, LOG-007
        let limit = |limit| Wanted { limit_bytes: Some(limit), ..Wanted::default() };
        assert_eq!(print(&limit(6), LOG), "one\ntw");
        assert_eq!(print(&limit(1000), LOG), "one\ntwo, three\nfour\n");
    }

    #[test]
    fn without_follow_the_number_of_lines_also_ends_it() {
        // API-089, LOG-007: physical lines, as upstream counts.
        let tail = |tail| Wanted { tail: Some(tail), ..Wanted::default() };
        assert_eq!(print(&tail(0), LOG), "");
        assert_eq!(print(&tail(2), LOG), "one\ntwo, ");
    }

    #[test]
    fn a_first_line_in_no_known_form_is_an_error() {
        // API-087, LOG-006: the first line says what all are.
        let mut printer = Printer::new(&Wanted::default());
        let error = printer.feed(b"garbage\n", &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), r#"failed to get parse function: unsupported log format: "garbage\n""#);
        let docker = |text: &str| format!("{{\"log\":\"{text}\",\"stream\":\"stdout\",\"time\":\"2016-10-06T00:17:01Z\"}}\n");
        let cri = "2016-10-06T00:17:01Z stdout F cri\n";
        assert_eq!(print(&Wanted::default(), &format!("{}{cri}{}", docker("one\\n"), docker("two\\n"))), "one\ntwo\n");
        assert_eq!(print(&Wanted::default(), &format!("{cri}{}", docker("one\\n"))), "cri\n");
    }

    #[test]
    fn a_line_without_end_is_not_held_whole() {
        let mut printer = Printer::new(&Wanted { timestamps: true, ..Wanted::default() });
        let mut out = Vec::new();
        printer.feed(b"2016-10-06T00:17:01Z stdout F ", &mut out).unwrap();
        let block = vec![b'x'; 1 << 18];
        for _ in 0..40 {
            printer.feed(&block, &mut out).unwrap();
            assert!(printer.begun.len() <= LONGEST + block.len());
        }
        printer.feed(b"end\n2016-10-06T00:17:02Z stdout F next\n", &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.len(), 31 + 40 * (1 << 18) + "end\n".len() + 31 + "next\n".len());
        assert!(text.ends_with("xend\n2016-10-06T00:17:02.000000000Z next\n"));
    }

    // A container writes what it likes, and with the right to the log folder so does it the form.
    #[test]
    fn mangled_log_is_printed_alike_in_whatever_blocks_it_comes() {
        let seeds: [&[u8]; 3] = [
            b"2026-11-23T08:00:00Z stdout F one\n2026-11-23T08:00:01Z stderr P tw\n2026-11-23T08:00:01Z stderr F o\n",
            b"{\"log\":\"one\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-23T08:00:00Z\"}\n{\"log\":1}\n",
            b"2026-11-23T08:00:00Z stdout F:P: \n\n 9999-12-31T23:59:59Z stdout F x\n",
        ];
        let wanted = Wanted { timestamps: true, since: Some(Timestamp::UNIX_EPOCH), limit_bytes: Some(300), ..Wanted::default() };
        crate::mangled::each("log", &seeds, |input| {
            let print = |size: usize| {
                let (mut printer, mut out) = (Printer::new(&wanted), Vec::new());
                let fed = input.chunks(size).try_for_each(|block| printer.feed(block, &mut out));
                let ended = fed.and_then(|()| printer.finish(&mut out));
                (out, ended.map_err(|error| error.to_string()))
            };
            let whole = print(1 << 20);
            assert_eq!(print(1).0, whole.0);
            assert_eq!(print(7).0, whole.0);
        });
    }
}
