//! Writes the API's quantities as the API server stores them, so that what is wanted can be compared with what it shows.
//! Upstream: staging/src/k8s.io/apimachinery/pkg/api/resource/quantity.go (CanonicalizeBytes, Add), suffix.go.
//! Differs: nothing on purpose.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::Amount;

const NANO: i128 = 1_000_000_000;
/// From nano on, each a thousand times the one before it.
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// How a quantity is written; it keeps the notation that it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// `129e6`
    DecimalExponent,
    /// `64Mi`
    BinarySi,
    /// `200M`, and numbers without a suffix.
    DecimalSi,
}

impl Format {
    fn of(text: &str) -> Self {
        let suffix = text.trim_start_matches(['+', '-']).trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        match suffix.as_bytes() {
            [_, b'i'] => Self::BinarySi,
            [b'e' | b'E', _, ..] => Self::DecimalExponent,
            _ => Self::DecimalSi,
        }
    }
}

/// An amount with the notation that it is written in.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    amount: Amount,
    format: Format,
    /// As it was written, if upstream takes that for good enough.
    kept: Option<Quantity>,
}

/// ParseQuantity keeps the text of what it can read fast and finds in order, such as `1.234G` and `129E6`.
fn is_kept(text: &str, format: Format) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text).trim_start_matches('0');
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = whole.len().max(1) + fraction.len();
    if format == Format::BinarySi {
        let power = BINARY.iter().position(|known| *known == suffix).unwrap_or_default();
        let value: u64 = whole.parse().unwrap_or_default();
        return fraction.is_empty() && digits + 3 * power < 15 && !value.is_multiple_of(8);
    }
    let exponent = match DECIMAL.iter().position(|known| *known == suffix) {
        Some(power) => i64::try_from(power).unwrap_or_default() * 3 - 9,
        None => suffix.get(1..).and_then(|digits| digits.parse().ok()).unwrap_or_default(),
    };
    let scale = exponent.saturating_sub(i64::try_from(fraction.len()).unwrap_or(i64::MAX));
    digits <= 18 && scale >= -9 && scale % 3 == 0 && !format!("{whole}{fraction}").ends_with("000") && !whole.is_empty()
}

impl Written {
    /// Reads a quantity; `None` if it is none.
    pub(crate) fn parse(quantity: &Quantity) -> Option<Self> {
        let format = Format::of(&quantity.0);
        let kept = is_kept(&quantity.0, format).then(|| quantity.clone());
        Some(Self { amount: Amount::parse(quantity)?, format, kept })
    }

    /// The notation of a sum is that of the first that is not zero.
    pub(crate) fn add(&mut self, more: &Self) {
        self.kept = None;
        if self.amount == Amount::default() {
            self.format = more.format;
        }
        self.amount = self.amount.plus(more.amount);
    }

    /// The larger one, in its own notation.
    pub(crate) fn larger(self, other: Self) -> Self {
        if other.amount > self.amount { other } else { self }
    }

    /// Whether it is nothing.
    pub(crate) fn is_zero(&self) -> bool {
        self.amount == Amount::default()
    }

    /// As the API server writes it.
    pub(crate) fn print(self) -> Quantity {
        if let Some(kept) = self.kept {
            return kept;
        }
        let nanos = self.amount.nanos();
        if nanos == 0 {
            return Quantity("0".to_owned());
        }
        let whole = (nanos % NANO == 0).then_some(nanos / NANO).filter(|units| units.unsigned_abs() >= 1024);
        Quantity(match (self.format, whole) {
            (Format::BinarySi, Some(units)) => binary(units),
            (Format::DecimalExponent, _) => decimal_exponent(nanos),
            _ => decimal(nanos),
        })
    }
}

fn binary(mut units: i128) -> String {
    let mut suffix = 0;
    while units % 1024 == 0 && suffix + 1 < BINARY.len() {
        units /= 1024;
        suffix += 1;
    }
    format!("{units}{}", BINARY[suffix])
}

/// A number and its power of a thousand, counted from nano.
fn thousands(mut nanos: i128, most: usize) -> (i128, usize) {
    let mut power = 0;
    while nanos % 1000 == 0 && power < most {
        nanos /= 1000;
        power += 1;
    }
    (nanos, power)
}

fn decimal(nanos: i128) -> String {
    let (number, power) = thousands(nanos, DECIMAL.len() - 1);
    format!("{number}{}", DECIMAL[power])
}

fn decimal_exponent(nanos: i128) -> String {
    let (number, power) = thousands(nanos, usize::MAX);
    let exponent = i64::try_from(power).unwrap_or(i64::MAX).saturating_mul(3) - 9;
    if exponent == 0 { number.to_string() } else { format!("{number}e{exponent}") }
}

/// A quantity as the API server writes it; what is none stays as it is.
#[must_use]
pub fn canonical(quantity: &Quantity) -> Quantity {
    Written::parse(quantity).map_or_else(|| quantity.clone(), Written::print)
}

/// A pod's status as it is compared: all quantities as the API server writes them, and no list, map or text that is there and empty, for
/// to upstream (apiequality.Semantic, omitempty) that is the same as none.
pub(crate) fn canonical_status(status: &mut PodStatus) {
    canonical_list(&mut status.allocated_resources);
    status.resources.iter_mut().for_each(canonical_requirements);
    for containers in
        [&mut status.container_statuses, &mut status.init_container_statuses, &mut status.ephemeral_container_statuses]
    {
        containers.iter_mut().flatten().for_each(canonical_container);
        none_if_empty(containers);
    }
    no_text_if_empty(&mut status.reason);
    no_text_if_empty(&mut status.message);
    for condition in status.conditions.iter_mut().flatten() {
        no_text_if_empty(&mut condition.reason);
        no_text_if_empty(&mut condition.message);
    }
    none_if_empty(&mut status.conditions);
    none_if_empty(&mut status.host_ips);
    none_if_empty(&mut status.pod_ips);
    none_if_empty(&mut status.resource_claim_statuses);
}

fn canonical_container(status: &mut ContainerStatus) {
    canonical_list(&mut status.allocated_resources);
    status.resources.iter_mut().for_each(canonical_requirements);
    none_if_empty(&mut status.volume_mounts);
    status.allocated_resources_status.iter_mut().flatten().for_each(|of| none_if_empty(&mut of.resources));
    none_if_empty(&mut status.allocated_resources_status);
    let linux = status.user.as_mut().and_then(|user| user.linux.as_mut());
    linux.into_iter().for_each(|user| none_if_empty(&mut user.supplemental_groups));
}

fn canonical_requirements(resources: &mut ResourceRequirements) {
    canonical_list(&mut resources.requests);
    canonical_list(&mut resources.limits);
    none_if_empty(&mut resources.claims);
}

fn canonical_list(list: &mut Option<BTreeMap<String, Quantity>>) {
    for quantity in list.iter_mut().flat_map(BTreeMap::values_mut) {
        *quantity = canonical(quantity);
    }
    if list.as_ref().is_some_and(BTreeMap::is_empty) {
        *list = None;
    }
}

fn no_text_if_empty(text: &mut Option<String>) {
    if text.as_deref() == Some("") {
        *text = None;
    }
}

fn none_if_empty<T>(list: &mut Option<Vec<T>>) {
    if list.as_ref().is_some_and(Vec::is_empty) {
        *list = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        canonical(&Quantity(text.to_owned())).0
    }

    // As kube-apiserver 1.36 stores them, and as quantity_test.go has them (TestQuantityString, TestQuantityParseEmit).
    #[test]
    fn quantities_are_written_as_the_api_server_stores_them() {
        let table = [
            ("500M", "500M"),
            ("200000k", "200M"),
            ("129000000", "129M"),
            ("129e6", "129e6"),
            ("129E6", "129E6"),
            ("129000E3", "129e6"),
            ("1.234G", "1.234G"),
            ("12Ki", "12Ki"),
            ("1025Mi", "1025Mi"),
            ("1e3", "1e3"),
            ("1E2", "100"),
            ("0.1G", "100M"),
            ("0.1Gi", "107374182400m"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("1048576Ki", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("1.000", "1"),
            ("0.033", "33m"),
            ("0", "0"),
            ("0Mi", "0"),
            ("-0.5Mi", "-512Ki"),
            ("+5", "+5"),
            ("1100e-3", "1100e-3"),
            ("12E", "12E"),
            ("9007199254740988Ki", "9007199254740988Ki"),
            ("1n", "1n"),
            // Of binary notation never more than fits into 63 bits (ParseQuantity, maxAllowed).
            ("7Ei", "7Ei"),
            ("8Ei", "9223372036854775807"),
            ("-8Ei", "-9223372036854775807"),
            ("9007199254740992Ki", "9223372036854775807"),
            ("10000000000000000Mi", "9223372036854775807"),
            ("10E", "10E"),
            ("1e30", "1e30"),
            ("100m", "100m"),
            ("what", "what"),
        ];
        for (given, stored) in table {
            assert_eq!(written(given), stored, "{given}");
            assert_eq!(written(stored), stored, "{stored} is not changed any more");
        }
    }

    // apiequality.Semantic (as needsUpdate of status_manager.go compares): nil and empty are the same.
    #[test]
    fn nothing_is_told_of_what_is_empty() {
        let container = |lists: serde_json::Value| {
            let mut container = serde_json::json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0});
            container.as_object_mut().unwrap().extend(lists.as_object().unwrap().clone());
            container
        };
        let empty = serde_json::json!({"volumeMounts": [], "allocatedResources": {}, "allocatedResourcesStatus": [],
            "resources": {"limits": {}, "requests": {}, "claims": []}, "user": {"linux": {"gid": 0, "uid": 0, "supplementalGroups": []}}});
        let absent = serde_json::json!({"resources": {}, "user": {"linux": {"gid": 0, "uid": 0}}});
        let of = |lists: serde_json::Value| -> PodStatus {
            let mut status: PodStatus = serde_json::from_value(lists).unwrap();
            canonical_status(&mut status);
            status
        };
        let filled = of(
            serde_json::json!({"conditions": [], "hostIPs": [], "podIPs": [], "resourceClaimStatuses": [], "allocatedResources": {},
            "resources": {"limits": {}}, "initContainerStatuses": [], "ephemeralContainerStatuses": [], "containerStatuses": [container(empty)]}),
        );
        assert_eq!(filled, of(serde_json::json!({"resources": {}, "containerStatuses": [container(absent)]})));
    }

    proptest::proptest! {
        // Whatever the notation: the amount stays, and what was written once is written the same again.
        #[test]
        fn writing_changes_no_amount(
            number in "[0-9]{1,9}(\\.[0-9]{1,3})?",
            suffix in "(|n|u|m|k|M|G|T|Ki|Mi|Gi|Ti|e[0-9]|E-[0-6])",
        ) {
            let given = format!("{number}{suffix}");
            let once = written(&given);
            proptest::prop_assert_eq!(Amount::parse_text(&given), Amount::parse_text(&once), "{} -> {}", given, once);
            proptest::prop_assert_eq!(&written(&once), &once);
        }
    }

    // Quantity.Add: recorded of the kubelet (case 224): 129e6 alone stays 129e6.
    #[test]
    fn sums_keep_the_first_notation() {
        let parse = |text: &str| Written::parse(&Quantity(text.to_owned())).unwrap();
        let sum = |texts: &[&str]| {
            let mut sum = parse("0");
            texts.iter().for_each(|text| sum.add(&parse(text)));
            sum.print().0
        };
        assert_eq!(sum(&["0", "129e6"]), "129e6");
        assert_eq!(sum(&["64Mi", "1M"]), "68108864");
        assert_eq!(sum(&["1M", "64Mi"]), "68108864");
        assert_eq!(sum(&["333m", "4m"]), "337m");
    }
}
