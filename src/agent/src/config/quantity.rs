//! Quantities in settings: `100Mi`, `200m`, `1.5G`, `2e3`.
//! Upstream: k8s.io/apimachinery/pkg/api/resource (ParseQuantity).
//! Differs: read only, down to thousandths and rounded up, which is all that a setting can mean.

/// The quantity that a text stands for, in thousandths, rounded away from zero. `None` if it is none.
#[must_use]
pub(super) fn milli(text: &str) -> Option<i128> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') || number.len() > 24 {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let decimals = i32::try_from(fraction.len()).ok()?;
    let (binary, exponent) = scale(suffix)?;
    // digits * 1024^binary * 10^(exponent - decimals + 3)
    let value = digits.checked_mul(1024_i128.checked_pow(binary)?)?;
    let power = exponent - decimals + 3;
    let ten = 10_i128.checked_pow(power.unsigned_abs())?;
    let value = if power >= 0 { value.checked_mul(ten)? } else { (value + ten - 1) / ten };
    Some(if negative { -value } else { value })
}

/// The quantity in whole units, rounded up. `None` if it is none, or negative, or too large.
#[must_use]
pub(super) fn units(text: &str) -> Option<u64> {
    let milli = milli(text)?;
    (milli >= 0).then(|| u64::try_from((milli + 999) / 1000).ok()).flatten()
}

/// A suffix as a power of 1024 and one of ten.
fn scale(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (1, 0),
        "Mi" => (2, 0),
        "Gi" => (3, 0),
        "Ti" => (4, 0),
        "Pi" => (5, 0),
        "Ei" => (6, 0),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
            (-24..=18).contains(&exponent).then_some((0, exponent))?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_upstream_does() {
        for (text, value) in [
            ("100Mi", 100 * 1024 * 1024 * 1000),
            ("200m", 200),
            ("1.5", 1500),
            ("1.5Gi", 1536 * 1024 * 1024 * 1000),
            ("2e3", 2_000_000),
            ("1E", 1_000_000_000_000_000_000_000),
            ("0.1m", 1),
            ("-5", -5000),
            ("5.", 5000),
            (".5", 500),
        ] {
            assert_eq!(milli(text), Some(value), "{text}");
        }
        for text in ["", "Mi", "1 Gi", "1KiB", "ten", "1.2.3", "1K", "--1", "1e99"] {
            assert_eq!(milli(text), None, "{text}");
        }
    }

    #[test]
    fn whole_units_are_rounded_up() {
        assert_eq!(units("1500m"), Some(2));
        assert_eq!(units("-1"), None);
    }
}
