//! Reads the API's quantities, such as `1500m`, `64Mi` and `1e3`, exactly to the nano unit.
//! Upstream: staging/src/k8s.io/apimachinery/pkg/api/resource/quantity.go.
//! Differs: nothing on purpose.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANO: i128 = 1_000_000_000;
/// What is written with a binary suffix is capped (ParseQuantity, maxAllowed).
const MOST_BINARY: i128 = (i64::MAX as i128) * NANO;

/// A quantity's amount. Ordered by size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount {
    nanos: i128,
}

impl Amount {
    /// Reads a quantity; `None` if it is none. Finer than a nano unit is rounded up, as upstream does.
    #[must_use]
    pub fn parse(quantity: &Quantity) -> Option<Self> {
        Self::parse_text(&quantity.0)
    }

    /// Reads a quantity's text; `None` if it is none.
    #[must_use]
    pub fn parse_text(text: &str) -> Option<Self> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let fraction = fraction.trim_end_matches('0');
        let digits: i128 = match format!("{whole}{fraction}").trim_start_matches('0') {
            "" => 0,
            // Of digits alone: it can only be too large, and is capped below as upstream caps it.
            digits => digits.parse().unwrap_or(i128::MAX),
        };
        let (multiply, divide) = scale(suffix)?;
        let shift = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let nanos = ceil_div(digits.saturating_mul(NANO).saturating_mul(multiply), divide.checked_mul(shift)?);
        let nanos = if suffix.ends_with('i') { nanos.min(MOST_BINARY) } else { nanos };
        Some(Self { nanos: if negative { -nanos } else { nanos } })
    }

    /// A whole number of units.
    #[must_use]
    pub fn of(units: u64) -> Self {
        Self { nanos: i128::from(units) * NANO }
    }

    /// In whole units, rounded up: upstream's `Value`.
    #[must_use]
    pub fn value(self) -> i64 {
        clamp(ceil_div(self.nanos, NANO))
    }

    /// In thousandths, rounded up: upstream's `MilliValue`.
    #[must_use]
    pub fn milli_value(self) -> i64 {
        clamp(ceil_div(self.nanos, NANO / 1000))
    }

    /// In billionths of a unit.
    pub(crate) fn nanos(self) -> i128 {
        self.nanos
    }

    /// Both together, as much as fits.
    pub(crate) fn plus(self, more: Self) -> Self {
        Self { nanos: self.nanos.saturating_add(more.nanos) }
    }

    /// Whether it is more than nothing.
    #[must_use]
    pub fn is_positive(self) -> bool {
        self.nanos > 0
    }
}

/// What a suffix multiplies and divides by.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1 << (10 * power), 1));
    let decimal = |power: u32| Some((10_i128.pow(power), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, NANO)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs());
            if exponent < 0 { Some((1, power?)) } else { Some((power.unwrap_or(i128::MAX), 1)) }
        }
    }
}

/// Division that rounds away from zero.
fn ceil_div(dividend: i128, divisor: i128) -> i128 {
    let quotient = dividend / divisor;
    if dividend % divisor == 0 { quotient } else { quotient + dividend.signum() }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value > 0 { i64::MAX } else { i64::MIN })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<i64> {
        Amount::parse_text(text).map(Amount::value)
    }

    #[test]
    fn suffixes_scale_as_upstream() {
        assert_eq!(value("64Mi"), Some(64 << 20));
        assert_eq!(value("1.5Gi"), Some(3 << 29));
        assert_eq!(value("2k"), Some(2000));
        assert_eq!(value("1e3"), Some(1000));
        assert_eq!(value("12E"), Some(12_000_000_000_000_000_000_i128.min(i128::from(i64::MAX)) as i64));
        assert_eq!(value("7Ei"), Some(7 << 60));
        assert_eq!(value("0.50"), Some(1));
        assert_eq!(value("-2"), Some(-2));
        assert_eq!(value("2E-1"), Some(1));
    }

    // staging/src/k8s.io/apimachinery/pkg/api/resource/quantity.go (ParseQuantity): what is larger than fits is the most that fits.
    #[test]
    fn what_is_too_large_is_capped() {
        for text in ["1e30", "1e400", "99999999999999999999999999999999999999999999", "999999999999999999999Ei"] {
            assert_eq!(value(text), Some(i64::MAX), "{text}");
        }
        assert_eq!(value("-1e400"), Some(i64::MIN));
        assert_eq!(value("0e400"), Some(0));
    }

    #[test]
    fn parts_of_a_unit_are_rounded_up() {
        assert_eq!(value("100m"), Some(1));
        let milli = |text| Amount::parse_text(text).map(Amount::milli_value);
        assert_eq!(milli("100m"), Some(100));
        assert_eq!(milli("1500u"), Some(2));
        assert_eq!(milli("2"), Some(2000));
        assert_eq!(milli("0.1n"), Some(1));
    }

    #[test]
    fn what_is_no_quantity_does_not_parse() {
        for text in ["", "Mi", "1.2.3", "1Zi", "--1", "1 Gi", "1e", "."] {
            assert_eq!(value(text), None, "{text:?}");
        }
    }
}
