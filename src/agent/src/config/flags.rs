//! What a command line says, read as Go's pflag reads it, by one table that also makes the help text.
//! Upstream: github.com/spf13/pflag, component-base/cli/flag, pkg/util/flag.
//! Differs: all problems at once, with the nearest known name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Taint;
use kubelet::sensitive::Sensitive;

use super::duration::GoDuration;
use super::flag_table::{FLAGS, REMOVED};
use super::labels;
use super::problem::Problem;
use super::quantity;
use super::schema::{Headers, KubeletConfiguration, MemoryReservation, QuantityText, VModule, Verbosity};
use super::suggest::nearest;

/// What flags set: settings of their own, and fields of the configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Settings {
    /// Flags that are no field.
    pub(super) flags: Flags,
    /// The configuration that flags override.
    pub(super) config: KubeletConfiguration,
}

/// The flags that are no field of the configuration (API-245). Empty texts are not set.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Flags {
    pub(super) config: String,
    pub(super) config_dir: String,
    pub(super) kubeconfig: String,
    pub(super) bootstrap_kubeconfig: String,
    pub(super) hostname_override: String,
    pub(super) node_ip: String,
    pub(super) node_labels: BTreeMap<String, String>,
    pub(super) cert_dir: String,
    pub(super) root_dir: String,
    pub(super) cloud_provider: String,
    pub(super) runtime_cgroups: String,
    pub(super) lock_file: String,
    pub(super) exit_on_lock_contention: bool,
    pub(super) image_credential_provider_config: String,
    pub(super) image_credential_provider_bin_dir: String,
    pub(super) housekeeping_interval: GoDuration,
    pub(super) seccomp_default: bool,
    pub(super) minimum_container_ttl_duration: GoDuration,
    pub(super) maximum_dead_containers: i32,
    pub(super) maximum_dead_containers_per_container: i32,
    pub(super) allocatable_ignore_eviction: bool,
    pub(super) version: String,
    pub(super) help: bool,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            config: String::new(),
            config_dir: String::new(),
            kubeconfig: String::new(),
            bootstrap_kubeconfig: String::new(),
            hostname_override: String::new(),
            node_ip: String::new(),
            node_labels: BTreeMap::new(),
            cert_dir: "/var/lib/kubelet/pki".to_owned(),
            root_dir: "/var/lib/kubelet".to_owned(),
            cloud_provider: String::new(),
            runtime_cgroups: String::new(),
            lock_file: String::new(),
            exit_on_lock_contention: false,
            image_credential_provider_config: String::new(),
            image_credential_provider_bin_dir: String::new(),
            housekeeping_interval: GoDuration::from_secs(10),
            seccomp_default: false,
            minimum_container_ttl_duration: GoDuration::ZERO,
            maximum_dead_containers: -1,
            maximum_dead_containers_per_container: 1,
            allocatable_ignore_eviction: false,
            version: String::new(),
            help: false,
        }
    }
}

/// One flag: a row of the table.
pub(super) struct Flag {
    /// The name, with hyphens.
    pub(super) name: &'static str,
    /// What it takes and where that goes.
    pub(super) kind: Kind,
    /// Whether it should still be used.
    pub(super) standing: Standing,
    /// What it is for.
    pub(super) help: &'static str,
}

/// Whether a flag should still be used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It should.
    Current,
    /// It works, with this warning (API-244).
    Deprecated(&'static str),
    /// It is accepted and does nothing, with this warning.
    Ignored(&'static str),
}

type Place<T> = fn(&mut Settings) -> &mut T;

/// What a flag takes and where that goes.
pub(super) enum Kind {
    Text(Place<String>),
    OptionalText(Place<Option<String>>),
    Switch(Place<bool>),
    OptionalSwitch(Place<Option<bool>>),
    Number(Place<i32>),
    OptionalNumber(Place<Option<i32>>),
    Long(Place<i64>),
    OptionalLong(Place<Option<i64>>),
    Period(Place<GoDuration>),
    OptionalPeriod(Place<Option<GoDuration>>),
    List(Place<Vec<String>>),
    OptionalList(Place<Option<Vec<String>>>),
    Pairs(Place<BTreeMap<String, String>>),
    OnePair(Place<BTreeMap<String, String>>),
    OptionalPairs(Place<Option<BTreeMap<String, String>>>),
    Thresholds(Place<BTreeMap<String, String>>),
    OptionalThresholds(Place<Option<BTreeMap<String, String>>>),
    Gates(Place<BTreeMap<String, bool>>),
    Labels(Place<BTreeMap<String, String>>),
    Headers(Place<Headers>),
    Address(Place<String>),
    Taints(Place<Vec<Taint>>),
    Memory(Place<Vec<MemoryReservation>>),
    Verbosity(Place<Verbosity>),
    Modules(Place<Vec<VModule>>),
    Size(Place<QuantityText>),
    Version(Place<String>),
    /// Takes a value, or need not if `true`, and forgets it.
    Nothing(bool),
}

impl Kind {
    /// Whether the flag stands for `true` when it has no value.
    fn is_switch(&self) -> bool {
        matches!(self, Self::Switch(_) | Self::OptionalSwitch(_) | Self::Version(_) | Self::Nothing(true))
    }

    /// What help calls the value.
    pub(super) fn value_name(&self) -> &'static str {
        match self {
            Self::Switch(_) | Self::OptionalSwitch(_) | Self::Nothing(true) => "",
            Self::Text(_) | Self::OptionalText(_) | Self::Nothing(false) => "string",
            Self::Number(_) | Self::OptionalNumber(_) => "int32",
            Self::Long(_) | Self::OptionalLong(_) => "int",
            Self::Period(_) | Self::OptionalPeriod(_) => "duration",
            Self::List(_) | Self::OptionalList(_) => "strings",
            Self::Pairs(_) | Self::OnePair(_) | Self::OptionalPairs(_) | Self::Labels(_) => "mapStringString",
            Self::Thresholds(_) | Self::OptionalThresholds(_) => "<string>",
            Self::Gates(_) => "mapStringBool",
            Self::Headers(_) => "colonSeparatedMultimapStringString",
            Self::Address(_) => "ip",
            Self::Taints(_) => "[]v1.Taint",
            Self::Memory(_) => "reserved-memory",
            Self::Verbosity(_) => "Level",
            Self::Modules(_) => "pattern=N,...",
            Self::Size(_) => "quantity",
            Self::Version(_) => "version[=true]",
        }
    }

    /// Takes one value. `first` is whether it is the flag's first on this command line: lists and maps then begin anew, so that a
    /// flag replaces what the file says and several of them add up (NODE-025).
    fn set(&self, settings: &mut Settings, value: &str, first: bool) -> Result<(), String> {
        match self {
            Self::Text(place) | Self::Version(place) => value.clone_into(place(settings)),
            Self::OptionalText(place) => *place(settings) = Some(value.to_owned()),
            Self::Switch(place) => *place(settings) = switch(value)?,
            Self::OptionalSwitch(place) => *place(settings) = Some(switch(value)?),
            Self::Number(place) => *place(settings) = number(value)?,
            Self::OptionalNumber(place) => *place(settings) = Some(number(value)?),
            Self::Long(place) => *place(settings) = number(value)?,
            Self::OptionalLong(place) => *place(settings) = Some(number(value)?),
            Self::Period(place) => *place(settings) = value.parse().map_err(|error| format!("{error}"))?,
            Self::OptionalPeriod(place) => *place(settings) = Some(value.parse().map_err(|error| format!("{error}"))?),
            Self::List(place) => extend(fresh(place(settings), first), list(value)),
            Self::OptionalList(place) => extend(fresh(place(settings).get_or_insert_default(), first), list(value)),
            Self::Pairs(place) => extend(fresh(place(settings), first), pairs(value, '=', "string=string")?),
            Self::OnePair(place) => {
                let (key, value) = value.split_once('=').ok_or("malformed pair, expect string=string")?;
                fresh(place(settings), first).insert(key.trim().to_owned(), value.trim().to_owned());
            }
            Self::OptionalPairs(place) => {
                extend(fresh(place(settings).get_or_insert_default(), first), pairs(value, '=', "string=string")?);
            }
            Self::Thresholds(place) => extend(fresh(place(settings), first), pairs(value, '<', "string<string")?),
            Self::OptionalThresholds(place) => {
                extend(fresh(place(settings).get_or_insert_default(), first), pairs(value, '<', "string<string")?);
            }
            Self::Gates(place) => extend(place(settings), gates(value)?),
            Self::Labels(place) => extend(
                place(settings),
                value.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (key.trim().to_owned(), value.trim().to_owned())
                }),
            ),
            Self::Headers(place) => headers(place(settings), value, first)?,
            Self::Address(place) => {
                if !value.is_empty() {
                    sloppy_ip(value).ok_or_else(|| format!("{value:?} is not a valid IP address"))?;
                    value.clone_into(place(settings));
                }
            }
            Self::Taints(place) => *place(settings) = labels::parse_taints(value)?,
            Self::Memory(place) => extend(fresh(place(settings), first), reserved_memory(value)?),
            Self::Verbosity(place) => *place(settings) = Verbosity(number(value)?),
            Self::Modules(place) => *place(settings) = modules(value)?,
            Self::Size(place) => {
                quantity::milli(value).ok_or("quantities must be a number with a suffix such as Mi")?;
                *place(settings) = QuantityText(value.to_owned());
            }
            Self::Nothing(_) => {}
        }
        Ok(())
    }
}

/// A command line that was understood: flags with their values, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct CommandLine {
    given: Vec<(usize, String)>,
}

impl CommandLine {
    /// Splits arguments (without the program's name) into flags and values.
    pub(super) fn parse(args: &[String], problems: &mut Vec<Problem>) -> Self {
        let mut line = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let (name, mut value) = match split(arg) {
                Argument::Flag(name, value) => (name, value),
                Argument::End => {
                    problems.extend(args.next().map(|extra| unknown_command(extra)));
                    break;
                }
                Argument::Other => {
                    problems.push(unknown_command(arg));
                    continue;
                }
            };
            let known = FLAGS.iter().position(|flag| flag.name == name);
            if value.is_none() && !known.is_some_and(|index| FLAGS[index].kind.is_switch()) {
                // The next argument is the value; of an unknown flag only if it does not look like a flag.
                if known.is_some() || args.as_slice().first().is_some_and(|next| !next.starts_with('-')) {
                    value = args.next().map(String::as_str);
                }
            }
            match (known, value) {
                (None, value) => problems.push(unknown_flag(arg, &name, value)),
                (Some(index), Some(value)) => line.given.push((index, value.to_owned())),
                (Some(index), None) if FLAGS[index].kind.is_switch() => line.given.push((index, "true".to_owned())),
                (Some(_), None) => {
                    problems.push(Problem::new(arg, "", format!("flag needs an argument: {arg}"), format!("write {arg}=VALUE")));
                }
            }
        }
        line
    }

    /// Sets everything that was given, over what is there.
    pub(super) fn apply(&self, settings: &mut Settings, problems: &mut Vec<Problem>) {
        for (nth, (index, value)) in self.given.iter().enumerate() {
            let flag = &FLAGS[*index];
            let first = !self.given[..nth].iter().any(|(earlier, _)| earlier == index);
            if let Err(reason) = flag.kind.set(settings, value, first) {
                let name = format!("--{}", flag.name);
                let shown = if matches!(flag.kind, Kind::Headers(_)) { "<masked>" } else { value };
                problems.push(Problem::new(
                    &name,
                    shown,
                    format!("invalid argument {shown:?} for {name:?} flag: {reason}"),
                    format!("give a {}", if flag.kind.value_name().is_empty() { "true or false" } else { flag.kind.value_name() }),
                ));
            }
        }
    }

    /// What to say about flags that should not be used any more, each once.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut seen = Vec::new();
        let mut warnings = Vec::new();
        for (index, _) in &self.given {
            if seen.contains(index) {
                continue;
            }
            seen.push(*index);
            let flag = &FLAGS[*index];
            match flag.standing {
                Standing::Current => {}
                Standing::Deprecated(why) => warnings.push(format!("Flag --{} has been deprecated, {why}", flag.name)),
                Standing::Ignored(why) => warnings.push(format!("Flag --{} is ignored, {why}", flag.name)),
            }
        }
        warnings
    }
}

enum Argument<'a> {
    /// A flag by its name in the table, and the value if it came in the same argument.
    Flag(String, Option<&'a str>),
    /// `--`
    End,
    Other,
}

fn split(arg: &str) -> Argument<'_> {
    if arg == "--" {
        return Argument::End;
    }
    if let Some(long) = arg.strip_prefix("--") {
        let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
        return Argument::Flag(name.replace('_', "-"), value);
    }
    match arg.strip_prefix('-') {
        Some("h") => Argument::Flag("help".to_owned(), None),
        Some(short) if short == "v" || short.starts_with("v=") || (short.starts_with('v') && short[1..].parse::<u32>().is_ok()) => {
            let value = &short[1..];
            Argument::Flag("v".to_owned(), (!value.is_empty()).then(|| value.strip_prefix('=').unwrap_or(value)))
        }
        // A long flag with one hyphen; the name stays unknown, the report knows what was meant.
        Some(short) if !short.is_empty() => {
            let (_, value) = short.split_once('=').map_or((short, None), |(name, value)| (name, Some(value)));
            Argument::Flag(String::new(), value)
        }
        _ => Argument::Other,
    }
}

fn unknown_command(arg: &str) -> Problem {
    Problem::new("", arg, format!("unknown command {arg}"), "flags begin with two hyphens; a value is joined to its flag with =")
}

fn unknown_flag(arg: &str, name: &str, value: Option<&str>) -> Problem {
    let value = value.unwrap_or_default();
    if name.is_empty() {
        let letter = arg.chars().nth(1).unwrap_or('-');
        let message = format!("unknown shorthand flag: {letter:?} in {arg}");
        return Problem::new(arg, value, message, format!("write -{arg} for a long flag"));
    }
    let remedy = match (REMOVED.iter().find(|(removed, _)| *removed == name), nearest(name, FLAGS.iter().map(|flag| flag.name))) {
        (Some((_, why)), _) => format!("remove it: {why}"),
        (None, Some(near)) => format!("did you mean --{near}?"),
        (None, None) => "remove it; see --help for the flags there are".to_owned(),
    };
    Problem::new(format!("--{name}"), value, format!("unknown flag: --{name}"), remedy)
}

/// The container, emptied if this is the flag's first value.
fn fresh<T: Default>(container: &mut T, first: bool) -> &mut T {
    if first {
        *container = T::default();
    }
    container
}

fn extend<T, C: Extend<T>>(container: &mut C, with: impl IntoIterator<Item = T>) {
    container.extend(with);
}

fn switch(value: &str) -> Result<bool, String> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {value:?}: invalid syntax")),
    }
}

fn number<T: std::str::FromStr<Err = std::num::ParseIntError>>(value: &str) -> Result<T, String> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    value.parse().map_err(|error: std::num::ParseIntError| {
        let reason = if matches!(error.kind(), PosOverflow | NegOverflow) { "value out of range" } else { "invalid syntax" };
        format!("strconv.ParseInt: parsing {value:?}: {reason}")
    })
}

fn list(value: &str) -> Vec<String> {
    if value.is_empty() { Vec::new() } else { value.split(',').map(str::to_owned).collect() }
}

fn pairs(value: &str, separator: char, expected: &str) -> Result<Vec<(String, String)>, String> {
    value
        .split(',')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once(separator).ok_or_else(|| format!("malformed pair, expect {expected}"))?;
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        })
        .collect()
}

fn gates(value: &str) -> Result<Vec<(String, bool)>, String> {
    let pairs = pairs(value, '=', "string=bool")?;
    pairs
        .into_iter()
        .map(|(key, value)| {
            let on = switch(&value).map_err(|error| format!("invalid value of {key}: {value}, err: {error}"))?;
            Ok((key, on))
        })
        .collect()
}

fn headers(headers: &mut Headers, value: &str, first: bool) -> Result<(), String> {
    let mut map = if first { BTreeMap::new() } else { headers.0.reveal().clone() };
    for pair in value.split(',').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once(':').ok_or("malformed pair, expect string:string")?;
        map.entry(name.trim().to_owned()).or_default().push(value.trim().to_owned());
    }
    *headers = Headers(Sensitive::new(map));
    Ok(())
}

fn reserved_memory(value: &str) -> Result<Vec<MemoryReservation>, String> {
    let mut reservations = Vec::new();
    for reservation in value.split(';').filter(|_| !value.is_empty()) {
        let wrong = || {
            format!(
                "the reserved memory has incorrect format, expected numaNodeID:type=quantity[,type=quantity...], got {reservation}"
            )
        };
        let (node, limits) = reservation.split_once(':').filter(|(_, limits)| !limits.contains(':')).ok_or_else(wrong)?;
        let numa_node = node.parse().map_err(|_| format!("failed to convert the NUMA node ID, expected integer, got {node}"))?;
        let mut parsed = BTreeMap::new();
        for limit in limits.split(',') {
            let (kind, quantity) = limit
                .split_once('=')
                .ok_or_else(|| format!("the reserved limit has incorrect value, expected type=quantity, got {limit}"))?;
            if kind != "memory" && !kind.starts_with("hugepages-") {
                return Err(format!("memory type conversion error, unknown type: {kind:?}"));
            }
            quantity::milli(quantity).ok_or_else(|| format!("failed to parse the quantity: {quantity}"))?;
            parsed.insert(kind.to_owned(), QuantityText(quantity.to_owned()));
        }
        reservations.push(MemoryReservation { numa_node, limits: parsed });
    }
    Ok(reservations)
}

fn modules(value: &str) -> Result<Vec<VModule>, String> {
    let pairs = pairs(value, '=', "pattern=N")?;
    pairs.into_iter().map(|(file_pattern, level)| Ok(VModule { file_pattern, verbosity: Verbosity(number(&level)?) })).collect()
}

/// An IP address; leading zeros in IPv4 are decimal, as in Go before 1.17. Upstream: netutils.ParseIPSloppy.
#[must_use]
pub(super) fn sloppy_ip(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| {
        let octets =
            text.split('.').map(|octet| octet.trim_start_matches('0')).map(|octet| if octet.is_empty() { "0" } else { octet });
        let trimmed: Vec<&str> = octets.collect();
        let digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && !text.split('.').any(str::is_empty);
        digits.then(|| trimmed.join(".").parse().ok()).flatten()
    })
}

/// The help text: every flag with its value and what it is for.
#[must_use]
pub(super) fn help() -> String {
    let mut text =
        String::from("The node agent: runs the pods that are bound to this node.\n\nUsage:\n  keelson [flags]\n\nFlags:\n");
    for flag in FLAGS {
        let lead = if flag.name == "v" { "  -v, --v" } else { "      --" };
        let name = if flag.name == "v" { "" } else { flag.name };
        let value = flag.kind.value_name();
        let space = if value.is_empty() { "" } else { " " };
        let note = match flag.standing {
            Standing::Current => String::new(),
            Standing::Deprecated(why) => format!(" (DEPRECATED: {why})"),
            Standing::Ignored(why) => format!(" (IGNORED: {why})"),
        };
        text.push_str(&format!("{lead}{name}{space}{value}\n            {}{note}\n", flag.help));
    }
    text
}
