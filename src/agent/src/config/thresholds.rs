//! Eviction thresholds and reservations, read from the texts that settings hold.
//! Upstream: pkg/kubelet/eviction/helpers.go (ParseThresholdConfig), cmd/kubelet/app/server.go (parseResourceList), pkg/kubelet/cm (ParseQOSReserved).
//! Differs: all problems at once; upstream stops at the first.

use std::collections::BTreeMap;
use std::time::Duration;

use kubelet::config::{Signal, Threshold, ThresholdValue};

use super::duration::GoDuration;
use super::problem::Problem;
use super::quantity;
use super::schema::KubeletConfiguration;

/// Reads all thresholds: hard ones, soft ones, and the copy of the hard memory threshold for allocatable memory if `pods` are
/// enforced (NODE-171).
pub(super) fn thresholds(config: &KubeletConfiguration, problems: &mut Vec<Problem>) -> Vec<Threshold> {
    let none = BTreeMap::new();
    let mut thresholds = statements("evictionHard", config.eviction_hard.as_ref().unwrap_or(&none), problems);
    let periods = grace_periods(&config.eviction_soft_grace_period, problems);
    for mut soft in statements("evictionSoft", &config.eviction_soft, problems) {
        match periods.get(&soft.signal) {
            Some(period) => {
                soft.grace_period = *period;
                thresholds.push(soft);
            }
            None => {
                let signal = soft.signal.as_str();
                problems.push(Problem::new(
                    format!("evictionSoft.{signal}"),
                    "",
                    format!("grace period must be specified for the soft eviction threshold {signal}"),
                    format!("set evictionSoftGracePeriod.{signal}"),
                ));
            }
        }
    }
    let reclaims = minimum_reclaims(&config.eviction_minimum_reclaim, problems);
    for threshold in &mut thresholds {
        threshold.min_reclaim = reclaims.get(&threshold.signal).copied();
    }
    if config.enforce_node_allocatable.iter().flatten().any(|enforced| enforced == "pods") {
        let hard_memory = |threshold: &&Threshold| threshold.signal == Signal::MemoryAvailable && threshold.is_hard();
        let copies: Vec<Threshold> = thresholds.iter().filter(hard_memory).copied().collect();
        thresholds.extend(copies.into_iter().map(|copy| Threshold { signal: Signal::AllocatableMemoryAvailable, ..copy }));
    }
    thresholds
}

/// Notes that a text of `field` under `key` is wrong.
fn note(problems: &mut Vec<Problem>, field: &str, key: &str, value: &str, message: String, remedy: &str) {
    problems.push(Problem::new(format!("{field}.{key}"), value, message, remedy));
}

fn signal(field: &str, name: &str, value: &str, problems: &mut Vec<Problem>) -> Option<Signal> {
    let signal = Signal::parse(name);
    if signal.is_none() {
        let known = Signal::ALL.map(Signal::as_str).join(", ");
        note(problems, field, name, value, format!("unsupported eviction signal {name}"), &format!("use one of {known}"));
    }
    signal
}

fn statements(field: &str, statements: &BTreeMap<String, String>, problems: &mut Vec<Problem>) -> Vec<Threshold> {
    let mut thresholds = Vec::new();
    for (name, text) in statements {
        let Some(signal) = signal(field, name, text, problems) else { continue };
        // As upstream has it, these two turn a threshold off.
        if text == "0%" || text == "100%" {
            continue;
        }
        let value = if text.ends_with('%') {
            match fraction(text) {
                Some(fraction) if fraction < 0.0 => Err(format!("eviction percentage threshold {name} must be >= 0%: {text}")),
                Some(fraction) if fraction > 1.0 => Err(format!("eviction percentage threshold {name} must be <= 100%: {text}")),
                Some(fraction) => Ok(ThresholdValue::Fraction(fraction)),
                None => Err(format!("strconv.ParseFloat: parsing {:?}: invalid syntax", text.trim_end_matches('%'))),
            }
        } else {
            match quantity::milli(text) {
                Some(..=0) => Err(format!("eviction threshold {name} must be positive: {text}")),
                Some(_) => Ok(ThresholdValue::Quantity(quantity::units(text).unwrap_or(u64::MAX))),
                None => Err(format!("eviction threshold {name} is no quantity: {text}")),
            }
        };
        match value {
            Ok(value) => thresholds.push(Threshold { signal, value, grace_period: Duration::ZERO, min_reclaim: None }),
            Err(message) => note(problems, field, name, text, message, "give a quantity such as 100Mi, or a percentage"),
        }
    }
    thresholds
}

fn fraction(text: &str) -> Option<f32> {
    text.trim_end_matches('%').parse::<f32>().ok().map(|percent| percent / 100.0)
}

fn grace_periods(periods: &BTreeMap<String, String>, problems: &mut Vec<Problem>) -> BTreeMap<Signal, Duration> {
    let field = "evictionSoftGracePeriod";
    let mut read = BTreeMap::new();
    for (name, text) in periods {
        let Some(signal) = signal(field, name, text, problems) else { continue };
        let message = match text.parse::<GoDuration>() {
            Ok(period) if period >= GoDuration::ZERO => {
                read.insert(signal, period.non_negative());
                continue;
            }
            Ok(_) => format!("invalid eviction grace period specified: {text}, must be a positive value"),
            Err(error) => error.to_string(),
        };
        note(problems, field, name, text, message, "give a duration such as 1m30s");
    }
    read
}

fn minimum_reclaims(reclaims: &BTreeMap<String, String>, problems: &mut Vec<Problem>) -> BTreeMap<Signal, ThresholdValue> {
    let field = "evictionMinimumReclaim";
    let mut read = BTreeMap::new();
    for (name, text) in reclaims {
        let Some(signal) = signal(field, name, text, problems) else { continue };
        let value = if text.ends_with('%') {
            match fraction(text) {
                Some(fraction) if fraction > 0.0 => Ok(ThresholdValue::Fraction(fraction)),
                Some(_) => Err(format!("eviction percentage minimum reclaim {name} must be positive: {text}")),
                None => Err(format!("strconv.ParseFloat: parsing {:?}: invalid syntax", text.trim_end_matches('%'))),
            }
        } else {
            match quantity::milli(text) {
                Some(..0) => Err(format!("negative eviction minimum reclaim specified for {name}")),
                Some(_) => Ok(ThresholdValue::Quantity(quantity::units(text).unwrap_or(u64::MAX))),
                None => Err(format!("eviction minimum reclaim {name} is no quantity: {text}")),
            }
        };
        match value {
            Ok(value) => drop(read.insert(signal, value)),
            Err(message) => note(problems, field, name, text, message, "give a quantity such as 500Mi, or a percentage"),
        }
    }
    read
}

/// Reads a reservation: `cpu` in thousandths, the others in whole units, rounded up.
pub(super) fn reservation(
    field: &str,
    flag: &str,
    texts: Option<&BTreeMap<String, String>>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, u64> {
    let mut read = BTreeMap::new();
    for (name, text) in texts.into_iter().flatten() {
        let message = match (name.as_str(), quantity::milli(text)) {
            ("cpu" | "memory" | "ephemeral-storage" | "pid", Some(milli @ 0..)) => {
                let amount = if name == "cpu" { u64::try_from(milli).ok() } else { quantity::units(text) };
                read.insert(name.clone(), amount.unwrap_or(u64::MAX));
                continue;
            }
            ("cpu" | "memory" | "ephemeral-storage" | "pid", Some(_)) => {
                format!("resource quantity for {name:?} cannot be negative: {text}")
            }
            ("cpu" | "memory" | "ephemeral-storage" | "pid", None) => {
                format!("failed to parse quantity {text:?} for {name:?} resource")
            }
            _ => format!("cannot reserve {name:?} resource"),
        };
        let message = format!("--{flag} value failed to parse: {message}");
        note(problems, field, name, text, message, "reserve cpu, memory, ephemeral-storage or pid, as quantities");
    }
    read
}

/// Reads `qosReserved`: the percentage of memory.
pub(super) fn qos_reserved(texts: &BTreeMap<String, String>, problems: &mut Vec<Problem>) -> Option<u8> {
    let mut memory = None;
    for (name, text) in texts {
        let reason = match (name.as_str(), text.strip_suffix('%')) {
            ("memory", Some(number)) => match number.parse::<i64>() {
                Ok(percent @ 0..=100) => {
                    memory = u8::try_from(percent).ok();
                    continue;
                }
                Ok(_) => format!("failed to parse percentage {text:?} for {name:?} resource: percentage must be between 0 and 100"),
                Err(_) => {
                    format!("failed to parse percentage {text:?} for {name:?} resource: invalid number in percentage '{text}'")
                }
            },
            ("memory", None) => {
                format!("failed to parse percentage {text:?} for {name:?} resource: percentage expected, got '{text}'")
            }
            _ => format!("cannot reserve {name:?} resource"),
        };
        note(problems, "qosReserved", name, text, format!("--qos-reserved value failed to parse: {reason}"), "give memory: 50%");
    }
    memory
}
