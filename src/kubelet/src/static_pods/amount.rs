//! What upstream keeps of a quantity that it has read and rounded up to thousandths: static pods' UIDs are made from it.
//! Upstream: staging/src/k8s.io/apimachinery/pkg/api/resource/{quantity,suffix}.go, gopkg.in/inf.v0.
//! Differs: what is beyond the range of a quantity is kept as nothing.

use serde_json::Value;

/// The most digits that upstream's short form takes (`maxInt64Factors`).
const SHORT: i32 = 18;
const NANO: i32 = 9;

/// A quantity as upstream prints it; those in lists of resources are rounded up to thousandths.
pub(super) fn quantity(value: Option<&Value>, rounds: bool) -> String {
    let text = match value {
        Some(Value::String(text)) => text.trim().to_owned(),
        Some(Value::Number(number)) => number.to_string(),
        _ => return printed(0, 0, None, "", ""),
    };
    if text == "0" {
        return printed(0, 0, None, "0", "DecimalSI");
    }
    read(&text, rounds).unwrap_or_else(|| printed(0, 0, None, "", ""))
}

fn printed(value: i64, scale: i32, dec: Option<(i128, i32)>, text: &str, format: &str) -> String {
    let dec = dec.map_or("(*inf.Dec)<nil>".to_owned(), |(unscaled, scale)| {
        let size = unscaled.unsigned_abs();
        let words = [size as u64, (size >> 64) as u64];
        let used = words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        let words: Vec<String> = words[..used].iter().map(u64::to_string).collect();
        let words = if used == 0 { "<nil>".to_owned() } else { format!("[{}]", words.join(" ")) };
        format!("(*inf.Dec){{unscaled:(big.Int){{neg:(bool){} abs:(big.nat){words}}} scale:(inf.Scale){scale}}}", unscaled < 0)
    });
    format!(
        "{{i:(resource.int64Amount){{value:(int64){value} scale:(resource.Scale){scale}}} d:(resource.infDecAmount){{Dec:{dec}}} s:(string){text} Format:(resource.Format){format}}}"
    )
}

fn read(text: &str, rounds: bool) -> Option<String> {
    let (positive, rest) = match text.strip_prefix('-') {
        Some(rest) => (false, rest),
        None => (true, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (num, denom) = number.split_once('.').unwrap_or((number, ""));
    // Leading zeros do not count, but for one.
    let num = Some(num.trim_start_matches('0')).filter(|num| !num.is_empty()).unwrap_or("0");
    let (binary, exponent, format) = interpret(suffix)?;
    let digits = i32::try_from(num.len()).ok()?;
    let decimals = i32::try_from(denom.len()).ok()?;
    let precision = match binary {
        false => SHORT - digits - decimals,
        true if decimals == 0 => 15 - digits - exponent * 3 / 10 - 1,
        true => -1,
    };
    let sign = if positive { 1 } else { -1 };
    let shifted = format!("{num}{denom}");
    let (scale, mantissa) =
        if binary { (-decimals, 1_i64.checked_shl(exponent.unsigned_abs())?) } else { (exponent - decimals, 1) };
    if precision >= 0 && scale >= -NANO {
        let value: i64 = shifted.parse().ok()?;
        if let Some(result) = value.checked_mul(mantissa) {
            let canonical = if binary {
                exponent % 10 == 0 && value & 7 != 0
            } else {
                scale % 3 == 0 && !shifted.ends_with("000") && !shifted.starts_with('0')
            };
            let text = if canonical { text } else { "" };
            return Some(if rounds && scale < -3 {
                rounded(sign * result, scale, format)
            } else {
                printed(sign * result, scale, None, text, format)
            });
        }
    }
    let mut unscaled: i128 = shifted.parse().ok()?;
    let mut scale = decimals;
    if binary {
        unscaled = unscaled.checked_mul(1_i128.checked_shl(exponent.unsigned_abs())?)?;
    } else {
        scale -= exponent;
    }
    let mut rounded = round((unscaled, scale), NANO)?;
    if rounds {
        rounded = round(rounded, 3)?;
    }
    Some(printed(0, 0, Some((i128::from(sign) * rounded.0, rounded.1)), "", format))
}

/// The short form, rounded up to thousandths.
fn rounded(value: i64, scale: i32, format: &str) -> String {
    let divisor = 10_i64.pow((-3 - scale).unsigned_abs());
    let up = if value % divisor == 0 { 0 } else { value.signum() };
    printed(value / divisor + up, -3, None, "", format)
}

fn round((unscaled, scale): (i128, i32), to: i32) -> Option<(i128, i32)> {
    if scale <= to {
        return Some((unscaled.checked_mul(10_i128.checked_pow((to - scale).unsigned_abs())?)?, to));
    }
    let divisor = 10_i128.checked_pow((scale - to).unsigned_abs())?;
    Some((unscaled / divisor + i128::from(unscaled % divisor != 0), to))
}

/// Whether it is a power of two, which power, and the name of its format.
fn interpret(suffix: &str) -> Option<(bool, i32, &'static str)> {
    let index = |suffixes: &[&str]| suffixes.iter().position(|known| *known == suffix).and_then(|at| i32::try_from(at).ok());
    if let Some(at) = index(&["n", "u", "m", "", "k", "M", "G", "T", "P", "E"]) {
        return Some((false, 3 * at - 9, "DecimalSI"));
    }
    if let Some(at) = index(&["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]) {
        return Some((true, 10 * (at + 1), "BinarySI"));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    Some((false, exponent, "DecimalExponent"))
}
