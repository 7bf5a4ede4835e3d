//! The query of a request, in order, with repeated keys.
//! Upstream: net/url (ParseQuery, of which nobody looks at the error).
//! Differs: what is not UTF-8 once decoded is replaced.

use http::Uri;

/// Keys and values, decoded.
pub(crate) struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// What cannot be read, and what has a semicolon in it, is left out by itself.
    pub(crate) fn of(uri: &Uri) -> Self {
        let pair = |text: &str| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            (!text.is_empty() && !text.contains(';')).then_some(())?;
            Some((unescape(key)?, unescape(value)?))
        };
        Self(uri.query().unwrap_or_default().split('&').filter_map(pair).collect())
    }

    /// The first value of a key.
    pub(crate) fn first(&self, key: &str) -> Option<&str> {
        self.all(key).next()
    }

    /// All values of a key.
    pub(crate) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// `url.QueryUnescape`: a plus is a space; `None` if a percent sign is followed by no two hexadecimal digits.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    Some(String::from_utf8_lossy(&plain).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    // As a real kubelet answers /containerLogs with `tailLines=1;limitBytes=2` and `tailLines=%zz`: as if they had not been asked.
    #[test]
    fn what_cannot_be_read_is_left_out_by_itself() {
        let pairs = Pairs::of(&"/x?a=1;b=2&c=%zz&d=%4&a=3&e=x+y%20z&f&a=".parse().unwrap());
        assert_eq!(pairs.all("a").collect::<Vec<_>>(), ["3", ""]);
        assert_eq!((pairs.first("e"), pairs.first("f"), pairs.first("c")), (Some("x y z"), Some(""), None));
    }
}
