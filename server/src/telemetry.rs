//! What the server tells about itself: log lines in Prometheus's two formats, and metrics.

pub mod metrics;
pub mod process;
pub mod results;
pub mod storage;

pub use metrics::Registry;

use std::fmt::{self, Write as _};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts logging to standard error; messages of libraries from `warn` on only.
pub fn start_logging(level: Level, json: bool) {
    let filter = Targets::new()
        .with_default(LevelFilter::from_level(level).min(LevelFilter::WARN))
        .with_target("chronolith", level)
        .with_target("chronolith_storage", level)
        .with_target("chronolith_query", level)
        .with_target("chronolith_wire", level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .event_format(LineFormat { json });
    // A second start in one process (tests) keeps the first.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
}

/// `time=... level=INFO source=main.rs:12 msg="..." key=value`, or the same as one JSON object.
struct LineFormat {
    json: bool,
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let file = metadata.file().unwrap_or("").rsplit('/').next().unwrap_or("");
        let source = format!("{file}:{}", metadata.line().unwrap_or(0));
        let time = timestamp(std::time::SystemTime::now());
        let mut pairs = vec![("time", time), ("level", metadata.level().to_string()), ("source", source)];
        pairs.push(("msg", fields.message));
        pairs.extend(fields.others);
        let line = if self.json { json_line(&pairs) } else { logfmt_line(&pairs) };
        writeln!(writer, "{line}")
    }
}

fn timestamp(now: std::time::SystemTime) -> String {
    match jiff::Timestamp::try_from(now) {
        Ok(now) => now.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
        Err(_) => String::new(),
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, format!("{value:?}"));
    }
}

impl Fields {
    fn push(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
        } else {
            self.others.push((field.name(), value));
        }
    }
}

fn logfmt_line(pairs: &[(&str, String)]) -> String {
    let mut line = String::new();
    for (i, (key, value)) in pairs.iter().enumerate() {
        if i > 0 {
            line.push(' ');
        }
        line.push_str(key);
        line.push('=');
        let plain = !value.is_empty()
            && value
                .chars()
                .all(|c| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=' && c != '\\');
        if plain {
            line.push_str(value);
        } else {
            // Writing to a string cannot fail.
            let _ = chronolith_model::labels::write_quoted(&mut line, value);
        }
    }
    line
}

fn json_line(pairs: &[(&str, String)]) -> String {
    let mut line = String::from("{");
    for (i, (key, value)) in pairs.iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(
            line,
            "{comma}{}:{}",
            serde_json::Value::from(*key),
            serde_json::Value::from(value.as_str())
        );
    }
    line.push('}');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logfmt_quotes_what_needs_quotes() {
        let pairs =
            [("time", "x".to_owned()), ("msg", "two words".to_owned()), ("err", "a=\"b\"\n".to_owned())];
        assert_eq!(logfmt_line(&pairs), "time=x msg=\"two words\" err=\"a=\\\"b\\\"\\n\"");
        assert_eq!(json_line(&pairs[1..2]), "{\"msg\":\"two words\"}");
    }

    #[test]
    fn times_have_milliseconds() {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(1_700_000_000_050);
        assert_eq!(timestamp(time), "2023-11-14T22:13:20.050Z");
    }
}
