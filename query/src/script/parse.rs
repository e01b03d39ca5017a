//! Reading test scripts.
//!
//! Lines are trimmed; a comment counts as an empty line, and an empty line ends a block. A query that does not
//! parse is a mistake of the script, also where the evaluation is expected to fail.
//!
//! Beyond Prometheus's language, times of evaluations may have a sign, and `load 15s from -1h` begins at such a time.

use crate::engine::Features;
use crate::go_format::parse_number;
use crate::parser::{self, ParserOptions, SeriesValue};
use chronolith_model::Labels;
use chronolith_model::duration::parse_duration;
use regex::Regex;

/// A test script.
#[derive(Clone, Debug)]
pub struct Script {
    /// The parts of the language that are on: [`Features::scripts`], except where a comment of the script says
    /// otherwise, such as `# feature promql-delayed-name-removal off`.
    pub features: Features,
    /// What it does, in order.
    pub commands: Vec<Command>,
}

/// A script that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ScriptError {
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// One command and where it begins.
#[derive(Clone, Debug)]
pub struct Command {
    /// From 1.
    pub line: usize,
    /// What to do.
    pub kind: CommandKind,
}

/// The commands.
#[derive(Clone, Debug)]
pub enum CommandKind {
    /// Forget all series.
    Clear,
    /// Add series.
    Load(Load),
    /// Evaluate a query and compare.
    Eval(Box<Eval>),
}

/// Series to add.
#[derive(Clone, Debug)]
pub struct Load {
    /// Time of the first point of each, in milliseconds.
    pub start: i64,
    /// Between points, in milliseconds.
    pub interval_ms: i64,
    /// Whether classic histograms also become histograms with custom buckets.
    pub with_nhcb: bool,
    /// Each label set once: of two lines for one, the later counts.
    pub series: Vec<LoadSeries>,
}

/// The points of one series.
#[derive(Clone, Debug)]
pub struct LoadSeries {
    /// Its labels.
    pub labels: Labels,
    /// Its points.
    pub values: Vec<SeriesValue>,
    /// For each point how far its start timestamp is from it, in milliseconds; empty if the script says nothing.
    pub start_offsets: Vec<Option<i64>>,
}

/// A query and what is expected of it.
#[derive(Clone, Debug)]
pub struct Eval {
    /// PromQL.
    pub query: String,
    /// An instant query at this time, or a range query with these steps; milliseconds.
    pub times: Times,
    /// For an instant query that returns a range vector: first, last time and interval of the values expected.
    pub range_vector: Option<(i64, i64, i64)>,
    /// Whether the order of a vector counts.
    pub ordered: bool,
    /// Set if the query is to fail; with what text.
    pub fail: Option<TextMatch>,
    /// Warnings.
    pub warnings: NotesExpected,
    /// Infos.
    pub infos: NotesExpected,
    /// The value.
    pub value: ValueExpected,
}

/// When to evaluate, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// At one time.
    Instant(i64),
    /// From, to, step.
    Range(i64, i64, i64),
}

/// What is expected of warnings or infos.
#[derive(Clone, Debug, Default)]
pub struct NotesExpected {
    /// There must be none.
    pub none: bool,
    /// There must be one at least.
    pub any: bool,
    /// Each must match one that is there, and each that is there must match one of these; empty: no matter.
    pub texts: Vec<TextMatch>,
}

/// A text or a pattern.
#[derive(Clone, Debug)]
pub enum TextMatch {
    /// Anything.
    Any,
    /// Exactly this.
    Text(String),
    /// Found somewhere in the text.
    Pattern(Regex),
}

impl TextMatch {
    /// Whether `text` is as expected.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Text(expected) => expected == text,
            Self::Pattern(regex) => regex.is_match(text),
        }
    }
}

/// The value expected.
#[derive(Clone, Debug)]
pub enum ValueExpected {
    /// A number.
    Scalar(f64),
    /// A string.
    String(Vec<u8>),
    /// Series with their values, in the order of the script.
    Series(Vec<ExpectedSeries>),
}

/// A series expected.
#[derive(Clone, Debug)]
pub struct ExpectedSeries {
    /// Its labels.
    pub labels: Labels,
    /// One value, or one for each step.
    pub values: Vec<SeriesValue>,
    /// From 1: the place in an ordered vector.
    pub position: usize,
}

/// Lines with a cursor.
struct Lines<'t> {
    lines: Vec<&'t str>,
    next: usize,
}

impl<'t> Lines<'t> {
    /// The next line of the block, if it has one.
    fn next_of_block(&mut self) -> Option<&'t str> {
        let line = self.lines.get(self.next).copied().filter(|line| !line.is_empty())?;
        self.next += 1;
        Some(line)
    }

    /// An error in the line read last.
    fn fail<T>(&self, message: impl Into<String>) -> Result<T, ScriptError> {
        Err(ScriptError { line: self.next, message: message.into() })
    }

    fn ms(&self, text: &str) -> Result<i64, ScriptError> {
        parse_duration(text).or_else(|error| self.fail(format!("invalid duration {text:?}: {error}")))
    }

    /// A duration with an optional sign.
    fn time(&self, text: &str) -> Result<i64, ScriptError> {
        match text.strip_prefix('-') {
            Some(text) => self.ms(text).map(|ms| -ms),
            None => self.ms(text),
        }
    }
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// [`ScriptError`] with the first line that cannot be read.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        let trimmed = text.lines().map(str::trim).map(|line| if line.starts_with('#') { "" } else { line });
        let mut lines = Lines { lines: trimmed.collect(), next: 0 };
        let features = features(text)?;
        let mut commands = Vec::new();
        while lines.next < lines.lines.len() {
            let Some(line) = lines.next_of_block() else {
                lines.next += 1;
                continue;
            };
            let number = lines.next;
            let (word, rest) = split_word(line);
            let kind = match word.to_lowercase().as_str() {
                "clear" => CommandKind::Clear,
                "load" => CommandKind::Load(load(&mut lines, rest, false)?),
                "load_with_nhcb" => CommandKind::Load(load(&mut lines, rest, true)?),
                "eval" | "eval_fail" | "eval_warn" | "eval_ordered" | "eval_info" => {
                    CommandKind::Eval(Box::new(eval(&mut lines, word, rest)?))
                }
                _ => return lines.fail(format!("invalid command {line:?}")),
            };
            commands.push(Command { line: number, kind });
        }
        Ok(Self { features, commands })
    }
}

/// The comments that switch features on and off.
fn features(text: &str) -> Result<Features, ScriptError> {
    let mut features = Features::scripts();
    for (at, line) in text.lines().enumerate() {
        let Some(setting) = line.trim().strip_prefix("# feature ") else {
            continue;
        };
        let fail = |message: String| Err(ScriptError { line: at + 1, message });
        let (name, on) = match setting.trim().split_once(' ') {
            Some((name, "on")) => (name, true),
            Some((name, "off")) => (name, false),
            _ => return fail(format!("expected a feature and \"on\" or \"off\", got {setting:?}")),
        };
        match features.by_flag(name) {
            Some(feature) => *feature = on,
            None => return fail(format!("unknown feature {name:?}")),
        }
    }
    Ok(features)
}

/// The first word of a line, and the rest without spaces in front.
fn split_word(line: &str) -> (&str, &str) {
    let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    (word, rest.trim_start())
}

fn load(lines: &mut Lines<'_>, interval: &str, with_nhcb: bool) -> Result<Load, ScriptError> {
    let (interval, start) = match interval.split_once(" from ") {
        Some((interval, start)) => (interval.trim_end(), lines.time(start.trim_start())?),
        None => (interval, 0),
    };
    let mut load = Load { start, interval_ms: lines.ms(interval)?, with_nhcb, series: Vec::new() };
    let mut pending: Option<(Labels, Vec<Option<i64>>)> = None;
    while let Some(line) = lines.next_of_block() {
        let (metric, rest) = split_word(line);
        if let Some(metric) = metric.strip_suffix("@st").filter(|_| !rest.is_empty()) {
            if pending.is_some() {
                return lines.fail("@st line has no following sample line");
            }
            let (labels, _) = series(lines, &format!("{metric} _"))?;
            let offsets: Result<Vec<Vec<Option<i64>>>, String> =
                rest.split_whitespace().map(start_offsets).collect();
            match offsets {
                Ok(offsets) => pending = Some((labels, offsets.concat())),
                Err(message) => return lines.fail(format!("invalid @st sequence: {message}")),
            }
            continue;
        }
        let (labels, values) = series(lines, line)?;
        let start_offsets = match pending.take() {
            Some((of, _)) if of != labels => {
                return lines.fail("@st metric does not match the following sample line metric");
            }
            Some((_, offsets)) if offsets.len() != values.len() => {
                return lines.fail(format!(
                    "@st line has {} values but sample line has {}",
                    offsets.len(),
                    values.len()
                ));
            }
            Some((_, offsets)) => offsets,
            None => Vec::new(),
        };
        load.series.retain(|other| other.labels != labels);
        load.series.push(LoadSeries { labels, values, start_offsets });
    }
    if pending.is_some() {
        return lines.fail("@st line has no following sample line");
    }
    Ok(load)
}

fn series(lines: &Lines<'_>, text: &str) -> Result<(Labels, Vec<SeriesValue>), ScriptError> {
    match parser::parse_series_desc(text) {
        Ok(description) => Ok((description.labels, description.values)),
        Err(error) => lines.fail(error.to_string()),
    }
}

/// Most points one item of a script may stand for.
const MAX_REPEATS: usize = 1_000_000;

/// An item of an `@st` line: `_`, `_x3`, `-1m`, `-1mx3` or `-30s-1mx2`.
fn start_offsets(item: &str) -> Result<Vec<Option<i64>>, String> {
    let repeats = |text: &str| match text.parse::<usize>() {
        Ok(n) if n <= MAX_REPEATS => Ok(n),
        _ => Err(format!("invalid repeat count in {item:?}")),
    };
    if item == "_" {
        return Ok(vec![None]);
    }
    if let Some(count) = item.strip_prefix("_x") {
        return Ok(vec![None; repeats(count)?]);
    }
    let (mut offset, rest) = duration_prefix(item)?;
    if rest.is_empty() {
        return Ok(vec![Some(offset)]);
    }
    let (delta, rest) = if rest.starts_with('x') { (0, rest) } else { duration_prefix(rest)? };
    let count = rest.strip_prefix('x').ok_or_else(|| format!("expected x and a count in {item:?}"))?;
    let mut offsets = Vec::new();
    for _ in 0..=repeats(count)? {
        offsets.push(Some(offset));
        offset += delta;
    }
    Ok(offsets)
}

/// Milliseconds of the duration, with an optional sign, at the start of `text`, and what follows it.
fn duration_prefix(text: &str) -> Result<(i64, &str), String> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let n_digits = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    let n_unit = unsigned[n_digits..].bytes().take_while(|b| b.is_ascii_alphabetic() && *b != b'x').count();
    let (duration, rest) = unsigned.split_at(n_digits + n_unit);
    let ms = parse_duration(duration).map_err(|error| error.to_string())?;
    Ok((if text.starts_with('-') { -ms } else { ms }, rest))
}

fn eval(lines: &mut Lines<'_>, word: &str, rest: &str) -> Result<Eval, ScriptError> {
    let (kind, rest) = split_word(rest);
    let (times, query) = match kind {
        "instant" => match split_word(rest) {
            ("at", rest) => {
                let (at, query) = split_word(rest);
                (Times::Instant(lines.time(at)?), query)
            }
            _ => return lines.fail("an instant evaluation needs its time: eval instant at <time> <query>"),
        },
        "range" => {
            let mut rest = rest;
            let mut part = |name: &str| -> Result<i64, ScriptError> {
                let (word, after) = split_word(rest);
                if word != name {
                    return lines.fail(format!("expected {name:?} in range evaluation, got {word:?}"));
                }
                let (value, after) = split_word(after);
                rest = after;
                lines.time(value)
            };
            let (from, to, step) = (part("from")?, part("to")?, part("step")?);
            if to < from {
                return lines.fail("end timestamp is before start timestamp");
            }
            (Times::Range(from, to, step), rest)
        }
        _ => return lines.fail(format!("expected 'instant' or 'range' after {word:?}, got {kind:?}")),
    };
    if let Err(error) = parser::parse_expr(query, ParserOptions::ALL) {
        return lines.fail(error.to_string());
    }
    let mut eval = Eval {
        query: query.to_owned(),
        times,
        range_vector: None,
        ordered: word == "eval_ordered",
        fail: (word == "eval_fail").then_some(TextMatch::Any),
        warnings: NotesExpected { any: word == "eval_warn", ..NotesExpected::default() },
        infos: NotesExpected { any: word == "eval_info", ..NotesExpected::default() },
        value: ValueExpected::Series(Vec::new()),
    };
    let mut position = 0;
    while let Some(line) = lines.next_of_block() {
        if expectation(lines, &mut eval, line)? {
            continue;
        }
        position += 1;
        if let Ok(number) = parse_number(line) {
            eval.value = ValueExpected::Scalar(number);
            break;
        }
        let (labels, values) = series(lines, line)?;
        if values.len() > 1 && matches!(eval.times, Times::Instant(_)) && eval.range_vector.is_none() {
            return lines.fail("expecting multiple values in instant evaluation not allowed");
        }
        if let ValueExpected::Series(expected) = &mut eval.value {
            expected.retain(|other| other.labels != labels);
            expected.push(ExpectedSeries { labels, values, position });
        }
    }
    Ok(eval)
}

/// Reads a line that expects something other than a series; false if it is none.
fn expectation(lines: &Lines<'_>, eval: &mut Eval, line: &str) -> Result<bool, ScriptError> {
    if eval.fail.is_some() {
        if let Some(text) = line.strip_prefix("expected_fail_message") {
            eval.fail = Some(TextMatch::Text(text.trim().to_owned()));
            return Ok(true);
        }
        if let Some(text) = line.strip_prefix("expected_fail_regexp") {
            eval.fail = Some(pattern(lines, text)?);
            return Ok(true);
        }
    }
    if let Some(times) = line.strip_prefix("expect range vector") {
        let words: Vec<&str> = times.split_whitespace().collect();
        let ["from", from, "to", to, "step", step] = words[..] else {
            return lines.fail(format!("invalid range vector definition {line:?}"));
        };
        eval.range_vector = Some((lines.ms(from)?, lines.ms(to)?, lines.ms(step)?));
        return Ok(true);
    }
    if let Some(text) = line.strip_prefix("expect string") {
        match parser::unquote(text.trim_start()) {
            Some(bytes) => eval.value = ValueExpected::String(bytes),
            None => return lines.fail("expected string literal not valid"),
        }
        return Ok(true);
    }
    let ("expect", rest) = split_word(line) else { return Ok(false) };
    let (mode, rest) = split_word(rest);
    let text = if let Some(text) = rest.strip_prefix("msg:") {
        TextMatch::Text(text.trim().to_owned())
    } else if let Some(text) = rest.strip_prefix("regex:") {
        pattern(lines, text)?
    } else if rest.is_empty() {
        TextMatch::Any
    } else {
        return lines.fail(format!("invalid expect statement {line:?}"));
    };
    match mode {
        "ordered" => eval.ordered = true,
        "fail" if eval.fail.is_some() => return lines.fail("multiple expect fail lines are not allowed"),
        "fail" => eval.fail = Some(text),
        "warn" => eval.warnings.texts.push(text),
        "info" => eval.infos.texts.push(text),
        "no_warn" => eval.warnings.none = true,
        "no_info" => eval.infos.none = true,
        _ => return lines.fail(format!("invalid expected error/annotation type {mode}")),
    }
    for notes in [&eval.warnings, &eval.infos] {
        if notes.none && !notes.texts.is_empty() {
            return lines.fail("annotations cannot be expected and excluded at once");
        }
    }
    Ok(true)
}

fn pattern(lines: &Lines<'_>, text: &str) -> Result<TextMatch, ScriptError> {
    match Regex::new(text.trim()) {
        Ok(regex) => Ok(TextMatch::Pattern(regex)),
        Err(error) => lines.fail(format!("invalid pattern {:?}: {error}", text.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_expectations_are_read() {
        let script = Script::parse(
            "# a comment\nload 5m\n  a{x=\"1\"} 0+10x3\n  a{x=\"2\"}@st -1mx3\n  a{x=\"2\"} 1 2 3 4\n\n\
             eval instant at 10m sum(a)\n  expect no_warn\n  expect info regex: might not\n  {} 20\n\n\
             eval range from 0 to 10m step 5m a\n  a{x=\"1\"} 0 10 20\n\n\
             eval instant at 1m 3\n  3\nclear\n",
        )
        .unwrap();
        let lines: Vec<usize> = script.commands.iter().map(|command| command.line).collect();
        assert_eq!(lines, [2, 7, 12, 15, 17]);
        let CommandKind::Load(load) = &script.commands[0].kind else { panic!("not a load") };
        assert_eq!(load.interval_ms, 300_000);
        assert_eq!(load.series[1].start_offsets, [Some(-60_000); 4]);
        let CommandKind::Eval(eval) = &script.commands[1].kind else { panic!("not an eval") };
        assert_eq!(eval.times, Times::Instant(600_000));
        assert!(eval.warnings.none && eval.infos.texts.len() == 1);
        let CommandKind::Eval(eval) = &script.commands[3].kind else { panic!("not an eval") };
        assert!(matches!(eval.value, ValueExpected::Scalar(3.0)));
    }

    #[test]
    fn start_offsets_repeat_and_step() {
        let cases: [(&str, &[Option<i64>]); 5] = [
            ("_x2", &[None, None]),
            ("0", &[Some(0)]),
            ("-1msx2", &[Some(-1), Some(-1), Some(-1)]),
            ("-30s-1mx1", &[Some(-30_000), Some(-90_000)]),
            ("-30s+1sx1", &[Some(-30_000), Some(-29_000)]),
        ];
        for (item, offsets) in cases {
            assert_eq!(start_offsets(item).unwrap(), offsets, "{item}");
        }
        for item in ["", "x3", "1m+", "1mx", "1m+1s"] {
            assert!(start_offsets(item).is_err(), "{item}");
        }
    }

    #[test]
    fn mistakes_name_their_line() {
        let check = |text: &str, expected: &str| {
            assert_eq!(Script::parse(text).unwrap_err().to_string(), expected);
        };
        check("\nfoo", "line 2: invalid command \"foo\"");
        check(
            "load 5m\na b",
            "line 2: 1:3: parse error: unexpected identifier \"b\" in series values, expected number or \"stale\"",
        );
        check("eval instant at 1m a +", "line 1: 1:4: parse error: unexpected end of input");
    }
}
