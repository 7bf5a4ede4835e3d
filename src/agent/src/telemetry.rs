//! What is logged and how a line looks: klog's text or JSON, to standard error.
//! Upstream: k8s.io/klog/v2 (textlogger), component-base/logs/json.
//! Differs: times are in UTC; verbosity is that of our own code, libraries speak from 8 on; fields whose names say that they are
//! secrets are masked, whatever is in them.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::SetGlobalDefaultError;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, reload};

use crate::config::LogSettings;
use crate::log_lines::LogLines;

/// Where finished lines go, each with its line feed.
pub type Sink = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// What gives the time of a line.
pub type Clock = fn() -> Timestamp;

/// Changes the verbosity while the process runs (`PUT /debug/flags/v`, API-011).
#[derive(Clone, Debug)]
pub struct VerbosityHandle(reload::Handle<Targets, Registry>);

impl VerbosityHandle {
    /// Logs at this verbosity from now on. Does nothing once the subscriber is gone.
    pub fn set(&self, verbosity: u32) {
        let _gone = self.0.reload(targets(verbosity));
    }
}

/// Logs to standard error from here on, for the whole process. For `main`, which has the lines flushed before it ends; a simulation has
/// its own subscriber.
///
/// # Errors
/// If the process logs already.
pub fn init(settings: &LogSettings, now: Clock) -> Result<LogLines, SetGlobalDefaultError> {
    let lines = LogLines::default();
    let sink: Sink = Arc::new({
        let lines = lines.clone();
        move |line| lines.push(line)
    });
    let (subscriber, _verbosity) = subscriber(settings, sink, now);
    tracing::subscriber::set_global_default(subscriber)?;
    let tell = |dropped| tracing::warn!(dropped, "Lines of the log were dropped: nobody read standard error");
    lines.write_to(std::io::stderr(), tell);
    Ok(lines)
}

/// What turns events into lines, and the handle to its verbosity.
pub fn subscriber(settings: &LogSettings, sink: Sink, now: Clock) -> (impl Subscriber + Send + Sync + use<>, VerbosityHandle) {
    let (filter, handle) = reload::Layer::new(targets(settings.verbosity));
    let lines = Lines { sink, now, json: settings.json };
    (tracing_subscriber::registry().with(filter).with(lines), VerbosityHandle(handle))
}

/// Verbosity 2 is state changes, 3 events, 4 debugging, 5 and more everything (API-280).
fn targets(verbosity: u32) -> Targets {
    let own = match verbosity {
        0..=2 => LevelFilter::INFO,
        3..=4 => LevelFilter::DEBUG,
        5.. => LevelFilter::TRACE,
    };
    let libraries = match verbosity {
        0..=7 => LevelFilter::WARN,
        8..=9 => LevelFilter::DEBUG,
        10.. => LevelFilter::TRACE,
    };
    Targets::new().with_default(libraries).with_targets(["agent", "kubelet", "keelson"].map(|target| (target, own)))
}

struct Lines {
    sink: Sink,
    now: Clock,
    json: bool,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.0.extend(of_span.0.iter().cloned());
            }
        }
        event.record(&mut fields);
        let message = fields.take_message();
        let metadata = event.metadata();
        let file = metadata.file().and_then(|path| path.rsplit('/').next()).unwrap_or("???");
        let place = Place { level: *metadata.level(), file, line: metadata.line().unwrap_or(1), now: (self.now)() };
        let line = if self.json { json_line(&place, &message, fields) } else { text_line(&place, &message, &fields) };
        (self.sink)(line.as_bytes());
    }
}

struct Place<'a> {
    level: Level,
    file: &'a str,
    line: u32,
    now: Timestamp,
}

/// `I0102 15:04:05.000000    4711 file.rs:12] "msg" key="value"`
fn text_line(place: &Place<'_>, message: &str, fields: &Fields) -> String {
    let letter = match place.level {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        _ => 'I',
    };
    let time = place.now.to_zoned(TimeZone::UTC);
    let mut line = format!(
        "{letter}{:02}{:02} {:02}:{:02}:{:02}.{:06} {:7} {}:{}] {message:?}",
        time.month(),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.subsec_nanosecond() / 1000,
        std::process::id(),
        place.file,
        place.line
    );
    for (name, value) in &fields.0 {
        // Writing to a String does not fail.
        let _ = match value {
            Value::String(text) => write!(line, " {name}={text:?}"),
            other => write!(line, " {name}={other}"),
        };
    }
    line.push('\n');
    line
}

/// `{"ts":1700000000000.123,"caller":"file.rs:12","msg":"...","v":0,"key":"value"}`
fn json_line(place: &Place<'_>, message: &str, mut fields: Fields) -> String {
    let micros = place.now.as_microsecond();
    let text = |text: &str| Value::from(text).to_string();
    let caller = text(&format!("{}:{}", place.file, place.line));
    let mut line = format!(
        "{{\"ts\":{}.{:03},\"caller\":{caller},\"msg\":{}",
        micros.div_euclid(1000),
        micros.rem_euclid(1000),
        text(message)
    );
    let level = match place.level {
        Level::ERROR => None,
        Level::WARN | Level::INFO => Some(0),
        Level::DEBUG => Some(4),
        Level::TRACE => Some(6),
    };
    if let Some(level) = level.filter(|_| !fields.0.iter().any(|(name, _)| *name == "v")) {
        fields.0.insert(0, ("v", Value::from(level)));
    }
    for (name, value) in &fields.0 {
        let _ = write!(line, ",{}:{value}", text(name));
    }
    line.push_str("}\n");
    line
}

/// The fields of an event or span, in order.
#[derive(Default)]
struct Fields(Vec<(&'static str, Value)>);

const MESSAGE: &str = "message";

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name();
        let value = if is_secret(name) { Value::from("<masked>") } else { value };
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name, value)),
        }
    }

    fn take_message(&mut self) -> String {
        match self.0.iter().position(|(name, _)| *name == MESSAGE).map(|index| self.0.remove(index).1) {
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
            None => String::new(),
        }
    }
}

/// Whether a field's name says that its value must not show.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["token", "secret", "password", "authorization", "credentials", "private_key", "bearer"].iter().any(|word| name.ends_with(word))
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::from(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::from(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        self.put(field, Value::from(text));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::from(format!("{value:?}")));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn lines(json: bool, verbosity: u32, log: impl FnOnce(&VerbosityHandle)) -> Vec<String> {
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink: Sink = Arc::new({
            let written = Arc::clone(&written);
            move |line: &[u8]| written.lock().expect("one thread").extend_from_slice(line)
        });
        let now: Clock = || "2026-01-02T15:04:05.000006789Z".parse().expect("a time");
        let (subscriber, handle) = subscriber(&LogSettings { json, verbosity }, sink, now);
        tracing::subscriber::with_default(subscriber, || log(&handle));
        let written = written.lock().expect("one thread");
        String::from_utf8(written.clone()).expect("text").lines().map(str::to_owned).collect()
    }

    #[test]
    fn text_lines_look_like_klogs() {
        // API-280
        let line = line!() + 3;
        let lines = lines(false, 2, |_| {
            let span = tracing::info_span!("pod", pod = "default/a").entered();
            tracing::info!(port = 10250, path = "/a b", "Started \"it\"\nall");
            drop(span);
            tracing::error!(err = "no", "Failed");
            tracing::warn!("Hm");
        });
        let pid = std::process::id();
        assert_eq!(
            lines[0],
            format!(
                r#"I0102 15:04:05.000006 {pid:7} telemetry.rs:{line}] "Started \"it\"\nall" pod="default/a" port=10250 path="/a b""#
            )
        );
        assert!(lines[1].starts_with("E0102") && lines[1].ends_with(r#"] "Failed" err="no""#));
        assert!(lines[2].starts_with("W0102"));
    }

    #[test]
    fn json_lines_have_upstreams_keys() {
        let lines = lines(true, 4, |_| {
            tracing::debug!(pod = %"default/a", "Looked");
            tracing::error!(err = "no", "Failed");
        });
        assert!(lines[0].starts_with(r#"{"ts":1767366245000.006,"caller":"telemetry.rs:"#), "{}", lines[0]);
        assert!(lines[0].ends_with(r#","msg":"Looked","v":4,"pod":"default/a"}"#), "{}", lines[0]);
        assert!(lines[1].ends_with(r#","msg":"Failed","err":"no"}"#), "{}", lines[1]);
        for line in lines {
            serde_json::from_str::<Value>(&line).expect("JSON");
        }
    }

    #[test]
    fn verbosity_chooses_levels_and_can_change() {
        let log = || {
            tracing::info!("info");
            tracing::debug!("debug");
            tracing::trace!("trace");
            tracing::info!(target: "hyper", "library");
        };
        let said = |verbosity| {
            let lines = lines(false, verbosity, |_| log());
            lines.iter().map(|line| line.rsplit(' ').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(said(2), ["\"info\""]);
        assert_eq!(said(4), ["\"info\"", "\"debug\""]);
        assert_eq!(said(6), ["\"info\"", "\"debug\"", "\"trace\""]);
        assert_eq!(said(8).len(), 4);
        let changed = lines(false, 2, |handle| {
            log();
            handle.set(4);
            log();
        });
        assert_eq!(changed.len(), 3);
    }

    #[test]
    fn secrets_do_not_show() {
        // API-280
        let lines = lines(false, 2, |_| {
            tracing::info!(bearer_token = "hunter2", Authorization = "hunter2", value = ?kubelet::sensitive::Sensitive::new("hunter2"), "Asked");
        });
        assert!(!lines[0].contains("hunter2"), "{}", lines[0]);
        assert!(lines[0].contains("bearer_token=\"<masked>\""));
    }
}
