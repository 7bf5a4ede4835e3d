//! What is in an object, found without reading it as a whole: who it is, and where its managed fields and late times are.
//! Upstream: k8s.io/apimachinery/pkg/apis/meta/v1 (protobuf: managed fields are opaque there, and times reach to the year 9999).
//! Differs: JSON, of which the object may have come in part only. Nothing in here recurses.

use std::borrow::Cow;
use std::ops::Range;

use super::scan::Nest;

/// The members of an object, as far as they have come: where each value is.
struct Members<'a> {
    object: &'a [u8],
    at: usize,
}

impl<'a> Members<'a> {
    fn of(object: &'a [u8]) -> Self {
        let at = object.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(object.len());
        let begins = object.get(at) == Some(&b'{');
        Self { object, at: if begins { at + 1 } else { object.len() } }
    }

    fn rest(&self) -> &'a [u8] {
        self.object.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self, also: u8) {
        self.at += self.rest().iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == also).count();
    }

    fn value(&mut self) -> Option<Range<usize>> {
        let begin = self.at;
        let mut nest = Nest::at(*self.rest().first()?);
        let (used, _) = nest.run(self.rest());
        self.at += used;
        (used > 0).then_some(begin..self.at)
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a [u8], Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        self.skip(b',');
        if self.rest().first() != Some(&b'"') {
            return None;
        }
        let key = self.value()?;
        let key = self.object.get(key)?;
        self.skip(b':');
        Some((key.strip_prefix(b"\"")?.strip_suffix(b"\"")?, self.value()?))
    }
}

fn place_of(object: &[u8], key: &str) -> Option<Range<usize>> {
    Members::of(object).find(|(name, _)| *name == key.as_bytes()).map(|(_, place)| place)
}

/// The value of an object's member, as it is written; of an object that has not come as a whole, as far as it has.
pub(super) fn member<'a>(object: &'a [u8], key: &str) -> Option<&'a [u8]> {
    object.get(place_of(object, key)?)
}

/// A member that is a text; empty if it is none.
pub(super) fn text(object: &[u8], key: &str) -> String {
    member(object, key).and_then(|value| serde_json::from_slice(value).ok()).unwrap_or_default()
}

/// Members of `metadata` that are times.
const TIMES: [&str; 2] = ["creationTimestamp", "deletionTimestamp"];
/// Members of a status whose value is a time.
const TOLD_TIMES: [&[u8]; 2] = [b"Time\":\"", b"At\":\""];
/// The last hour that a time may have here: all zones of the world have it before the year 10 000.
const LAST_HOUR: &[u8; 13] = b"9999-12-30T21";
/// The same as a whole, with the end of the text.
const LAST_TIME: &[u8; 21] = b"9999-12-30T21:59:59Z\"";

/// The object as it can be read, or need not be: its managed fields left out.
pub(super) fn without_managed_fields(object: &[u8]) -> Cow<'_, [u8]> {
    let within = |outer: Range<usize>, key| {
        let place = place_of(object.get(outer.clone())?, key)?;
        Some(outer.start + place.start..outer.start + place.end)
    };
    match place_of(object, "metadata").and_then(|metadata| within(metadata, "managedFields")) {
        None => Cow::Borrowed(object),
        Some(place) => {
            let (before, after) = (object.get(..place.start), object.get(place.end..));
            Cow::Owned([before.unwrap_or_default(), b"null", after.unwrap_or_default()].concat())
        }
    }
}

/// Upstream's times reach to the end of the year 9999, ours to its last day but one: later ones become the last. `None` if there is none.
pub(super) fn with_times_that_can_be_held(object: &[u8]) -> Option<Vec<u8>> {
    let mut mended = object.to_vec();
    if let Some(metadata) = place_of(object, "metadata") {
        let within = Members::of(object.get(metadata.clone()).unwrap_or_default());
        for (_, place) in within.filter(|(key, _)| TIMES.iter().any(|time| time.as_bytes() == *key)) {
            clamp(mended.get_mut(metadata.start + place.start + 1..).unwrap_or_default());
        }
    }
    if let Some(status) = place_of(object, "status").and_then(|place| mended.get_mut(place)) {
        for at in 0..status.len() {
            let begins = status.get(at..).unwrap_or_default();
            if let Some(key) = TOLD_TIMES.iter().find(|key| begins.starts_with(key)) {
                clamp(status.get_mut(at + key.len()..).unwrap_or_default());
            }
        }
    }
    (mended != object).then_some(mended)
}

fn clamp(time: &mut [u8]) {
    let late = [b"9999-12-31T".as_slice(), b"9999-12-30T22", b"9999-12-30T23"].iter().any(|late| time.starts_with(late));
    if late && let Some(hour) = time.get_mut(..LAST_HOUR.len()) {
        hour.copy_from_slice(LAST_HOUR);
    }
    // Go writes what was in the year 9999 somewhere east of Greenwich so.
    if time.starts_with(b"10000-01-0")
        && let Some(end) = time.iter().position(|byte| *byte == b'"')
        && let Some(whole) = time.get_mut(..=end)
        && whole.len() > LAST_TIME.len()
    {
        whole.fill(b' ');
        whole.iter_mut().zip(LAST_TIME).for_each(|(byte, last)| *byte = *last);
    }
}
