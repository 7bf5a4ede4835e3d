//! The Prometheus text format, digit for digit as Go writes it.
//! Upstream: github.com/prometheus/common/expfmt, strconv (FormatFloat).
//! Differs: nothing on purpose.

use std::fmt::Write as _;

/// What kind of family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Writes families and samples.
#[derive(Default)]
pub(super) struct Encoder {
    text: String,
}

impl Encoder {
    pub(super) fn finish(self) -> String {
        self.text
    }

    /// Begins a family.
    pub(super) fn family(&mut self, name: &str, help: &str, kind: Kind) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a string does not fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// One sample; a timestamp is in milliseconds.
    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64, timestamp: Option<i64>) {
        self.text.push_str(name);
        if !labels.is_empty() {
            for (index, (label, value)) in labels.iter().enumerate() {
                self.text.push(if index == 0 { '{' } else { ',' });
                self.text.push_str(label);
                self.text.push_str("=\"");
                self.label_value(value);
                self.text.push('"');
            }
            self.text.push('}');
        }
        let _ = write!(self.text, " {}", number(value));
        if let Some(timestamp) = timestamp {
            let _ = write!(self.text, " {timestamp}");
        }
        self.text.push('\n');
    }

    /// A label's value, piece by piece: hardly any has something to escape.
    fn label_value(&mut self, mut value: &str) {
        while let Some((at, escaped)) = value.char_indices().find_map(|(at, c)| Some((at, escape(c)?))) {
            self.text.push_str(value.get(..at).unwrap_or_default());
            self.text.push_str(escaped);
            value = value.get(at + 1..).unwrap_or_default();
        }
        self.text.push_str(value);
    }

    /// One histogram; `counts` has one more than `bounds`, and is not cumulative.
    pub(super) fn histogram(&mut self, name: &str, labels: &[(&str, &str)], bounds: &[f64], counts: &[u64], sum: f64) {
        let mut total = 0;
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        for (bound, count) in bounds.zip(counts) {
            total += count;
            let bound = number(bound);
            let mut labels = labels.to_vec();
            labels.push(("le", &bound));
            self.sample(&format!("{name}_bucket"), &labels, total as f64, None);
        }
        self.sample(&format!("{name}_sum"), labels, sum, None);
        self.sample(&format!("{name}_count"), labels, total as f64, None);
    }
}

/// How the format writes a character of a label's value that may not stand there by itself; all of one byte.
fn escape(c: char) -> Option<&'static str> {
    match c {
        '\\' => Some("\\\\"),
        '\n' => Some("\\n"),
        '"' => Some("\\\""),
        _ => None,
    }
}

/// `strconv.FormatFloat(value, 'g', -1, 64)`
fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    // The shortest form counts as one of six digits, however many it has.
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{value}")
}

#[cfg(test)]
mod tests {
    use super::{Encoder, number};

    // expfmt/text_create.go (escaper, quotedEscaper)
    #[test]
    fn label_values_are_escaped() {
        for (value, text) in [("", ""), ("a/b", "a/b"), ("\\d\"\né\"", "\\\\d\\\"\\né\\\""), ("\n\n", "\\n\\n")] {
            let mut encoder = Encoder::default();
            encoder.sample("m", &[("a", value), ("b", "c")], 1.0, None);
            assert_eq!(encoder.finish(), format!("m{{a=\"{text}\",b=\"c\"}} 1\n"));
        }
    }

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        let cases = [
            (0.0, "0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (675_840.0, "675840"),
            (1_285_509_120.0, "1.28550912e+09"),
            (1_795_422_623.580_525_2, "1.7954226235805252e+09"),
            (4_469.493_962_597, "4469.493962597"),
            (1e21, "1e+21"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (f64::INFINITY, "+Inf"),
            (f64::NAN, "NaN"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }
}
