//! Words for what varies from run to run, the same ones as in the recordings: times, digests, IDs, addresses, durations.

/// The text with a word in the place of everything that varies by itself.
pub(super) fn tokens(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let at_word = !out.chars().next_back().is_some_and(is_word);
        let found = RULES.iter().find_map(|rule| rule(rest, at_word, &out));
        let (length, word) = found.unwrap_or((0, String::new()));
        if length > 0 {
            out.push_str(&word);
            rest = &rest[length..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// What stands at the beginning of the text: its length and its word. Told are whether a word can begin here, and what came before.
type Rule = fn(&str, bool, &str) -> Option<(usize, String)>;

const RULES: [Rule; 13] =
    [size, time, listed, process, stamp, access_volume, digest, id, uid, container_file, source, address, duration];

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn ends_word(text: &str, at: usize) -> bool {
    !text[at..].chars().next().is_some_and(is_word)
}

/// The length of what fits a picture at the text's beginning: `9` is a digit, `f` a hexadecimal one, everything else itself.
fn fits(text: &str, picture: &str) -> Option<usize> {
    let mut bytes = text.bytes();
    let mut fit = |wanted: u8| {
        bytes.next().is_some_and(|byte| match wanted {
            b'9' => byte.is_ascii_digit(),
            b'f' => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
            b'T' => byte == b'T' || byte == b' ',
            other => byte == other,
        })
    };
    picture.bytes().all(&mut fit).then_some(picture.len())
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// How large an image is.
fn size(text: &str, _: bool, before: &str) -> Option<(usize, String)> {
    let length = Some(digits(text)).filter(|length| *length > 0 && before.ends_with("Image size: "))?;
    Some((length, "<n>".to_owned()))
}

fn time(text: &str, _: bool, _: &str) -> Option<(usize, String)> {
    let mut at = fits(text, "9999-99-99T99:99:99")?;
    if text[at..].starts_with('.') {
        at += 1 + digits(&text[at + 1..]);
    }
    if text[at..].starts_with('Z') {
        return Some((at + 1, "<time>".to_owned()));
    }
    let offset = text[at..].trim_start_matches(' ');
    let blanks = text.len() - at - offset.len();
    let length = ["+99:99", "-99:99", "+9999", "-9999"].iter().find_map(|picture| fits(offset, picture))?;
    at += blanks + length;
    if text[at..].starts_with(" UTC") {
        at += 4;
    }
    Some((at, "<time>".to_owned()))
}

/// `Jan  1 00:00`, as in a listing of files.
fn listed(text: &str, at_word: bool, _: &str) -> Option<(usize, String)> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let rest = MONTHS.iter().find_map(|month| text.strip_prefix(month)).filter(|rest| at_word && rest.starts_with(' '))?;
    let day = rest.trim_start_matches(' ');
    let hour = &day[digits(day)..];
    let length = fits(hour, " 99:99").filter(|length| digits(day) > 0 && ends_word(hour, *length))?;
    Some((text.len() - hour.len() + length, "<time>".to_owned()))
}

fn process(text: &str, _: bool, _: &str) -> Option<(usize, String)> {
    let rest = text.strip_prefix("/proc/")?;
    let length = Some(digits(rest)).filter(|length| *length > 0 && rest[*length..].starts_with('/'))?;
    Some((text.len() - rest.len() + length, "/proc/<pid>".to_owned()))
}

fn stamp(text: &str, _: bool, _: &str) -> Option<(usize, String)> {
    let at = fits(text, "..9999_99_99_99_99_99.")?;
    Some((at + digits(&text[at..]), "..<stamp>".to_owned()))
}

fn access_volume(text: &str, _: bool, _: &str) -> Option<(usize, String)> {
    const PREFIX: &str = "kube-api-access-";
    let suffix = text.strip_prefix(PREFIX)?;
    let length = suffix.bytes().take_while(|b| b.is_ascii_lowercase() || b.is_ascii_digit()).count();
    (length == 5 && ends_word(suffix, 5)).then(|| (PREFIX.len() + 5, format!("{PREFIX}<rand>")))
}

fn hexadecimal(text: &str, length: usize) -> bool {
    text.bytes().take_while(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b)).count() >= length && ends_word(text, length)
}

fn digest(text: &str, at_word: bool, _: &str) -> Option<(usize, String)> {
    let rest = text.strip_prefix("sha256:").filter(|_| at_word)?;
    hexadecimal(rest, 64).then(|| (71, "sha256:<digest>".to_owned()))
}

fn id(text: &str, at_word: bool, _: &str) -> Option<(usize, String)> {
    (at_word && hexadecimal(text, 64)).then(|| (64, "<id>".to_owned()))
}

fn uid(text: &str, at_word: bool, _: &str) -> Option<(usize, String)> {
    let length = fits(text, "ffffffff-ffff-ffff-ffff-ffffffffffff").filter(|_| at_word)?;
    ends_word(text, length).then(|| (length, "<uuid>".to_owned()))
}

/// The name of a container's own file: eight digits below `/containers/NAME/`.
fn container_file(text: &str, _: bool, before: &str) -> Option<(usize, String)> {
    let (folder, name) = before.strip_suffix('/')?.rsplit_once('/')?;
    (folder.ends_with("/containers") && !name.contains(char::is_whitespace) && hexadecimal(text, 8))
        .then(|| (8, "<rand>".to_owned()))
}

/// The length of an IPv4 address.
fn ipv4(text: &str) -> Option<usize> {
    let mut at = 0;
    for part in 0..4 {
        if part > 0 {
            at += usize::from(text[at..].starts_with('.'));
        }
        let length = digits(&text[at..]);
        if length == 0 {
            return None;
        }
        at += length;
    }
    Some(at)
}

/// Where a connection comes from: `IP:PORT->`.
fn source(text: &str, at_word: bool, _: &str) -> Option<(usize, String)> {
    let mut at = ipv4(text).filter(|_| at_word)?;
    at += usize::from(text[at..].starts_with(':'));
    at += digits(&text[at..]);
    text[at..].starts_with("->").then(|| (at + 2, "<source>->".to_owned()))
}

fn address(text: &str, at_word: bool, _: &str) -> Option<(usize, String)> {
    let length = ipv4(text).filter(|length| at_word && ends_word(text, *length))?;
    match &text[..length] {
        "10.96.0.1" | "10.96.0.10" => None,
        pod if pod.starts_with("10.88.") => Some((length, "<podip>".to_owned())),
        service if service.starts_with("10.96.") => Some((length, "<svcip>".to_owned())),
        _ => None,
    }
}

/// A span that was measured: with a fraction, or in a unit below the second.
fn duration(text: &str, at_word: bool, before: &str) -> Option<(usize, String)> {
    if !at_word || before.ends_with('.') {
        return None;
    }
    let mut at = 0;
    loop {
        let length = digits(&text[at..]);
        if length == 0 {
            return None;
        }
        let rest = &text[at + length..];
        let fraction = rest.strip_prefix('.').map_or(0, |rest| digits(rest) + 1);
        let unit = &rest[fraction..];
        let small = ["ms", "µs", "us", "ns"].into_iter().find(|name| unit.starts_with(name));
        let large = ["h", "m", "s"].into_iter().find(|name| unit.starts_with(name));
        let name = small.or(large)?;
        at += length + fraction + name.len();
        if fraction > 1 || (small.is_some() && fraction == 0) {
            return ends_word(text, at).then(|| (at, "<dur>".to_owned()));
        }
        if small.is_some() || name == "s" {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::tokens;

    #[test]
    fn what_varies_gets_a_word() {
        let id = "0".repeat(64);
        for (text, wanted) in [
            ("at 2026-01-01T00:00:05Z and 2026-01-01 00:00:05.123 +0000 UTC", "at <time> and <time>"),
            ("3 Jan  1 00:00 x, Dec 31 23:59, Jan 1, Januar", "3 <time> x, <time>, Jan 1, Januar"),
            ("/proc/17/ns /proc/self/ns /proc/17", "/proc/<pid>/ns /proc/self/ns /proc/17"),
            ("sha256:@, @", "sha256:<digest>, <id>"),
            ("/v/kube-api-access-ab1cd/x kube-api-access-toolong", "/v/kube-api-access-<rand>/x kube-api-access-toolong"),
            ("/pods/x/containers/c/0a1b2c3d", "/pods/x/containers/c/<rand>"),
            ("dial 10.88.0.3:80, 10.96.0.1, 10.96.3.4, 10.77.0.1", "dial <podip>:80, 10.96.0.1, <svcip>, 10.77.0.1"),
            ("10.77.0.1:4123->10.88.0.3:80", "<source>-><podip>:80"),
            ("in 1.5s, 2m3.25s, 800ms, 10s, 5m0s, 100m", "in <dur>, <dur>, <dur>, 10s, 5m0s, 100m"),
            ("Image size: 1103 bytes.", "Image size: <n> bytes."),
            ("12345678-1234-4123-8123-123456789abc", "<uuid>"),
            ("..2026_01_01_00_00_00.123456/x", "..<stamp>/x"),
        ] {
            assert_eq!(tokens(&text.replace('@', &id)), wanted);
        }
    }
}
