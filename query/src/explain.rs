//! What a query would do, and what it did: the tree of its plan with what each part reads, makes and takes, and why
//! reads could or could not be made smaller.
//!
//! Names and remarks are for people; programs should rely on the figures only.

mod measure;

pub(crate) use measure::Analysis;
pub use measure::Clock;

use crate::engine::QueryOutput;
use crate::eval::build::counts_only;
use crate::functions::Extension;
use crate::parser::Function;
use crate::parser::ast::{AggregateOp, BinaryOp};
use crate::plan::repeats::Repeats;
use crate::plan::{DataTime, Plan, PlanKind, Selector};
use crate::stats::QueryStats;
use crate::value::Value;
use chronolith_model::queryable::Estimate;
use measure::{Counters, Reads};
use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Larger plans are cut: nobody reads a thousand lines, and each has a few hundred bytes.
const MAX_NODES: usize = 1000;
/// The text of a node is cut to so many characters.
const MAX_TEXT_CHARS: usize = 120;

/// The plan of a query, with figures.
#[derive(Debug, Default)]
pub struct Explanation {
    /// Parents before what is below them, in the order of evaluation.
    pub nodes: Vec<ExplainedNode>,
    /// Nodes that were left out because there are too many.
    pub n_left_out: usize,
    /// What the query came to, if it was evaluated.
    pub outcome: Option<Outcome>,
}

/// What a query came to.
#[derive(Debug)]
pub struct Outcome {
    /// Series of the result; 1 for a scalar or string.
    pub n_series: usize,
    /// Samples of the result.
    pub n_samples: usize,
    /// From the first look at the index to the last sample of the result.
    pub total: Duration,
    /// Most memory that was charged to the query at once.
    pub peak_memory_bytes: usize,
    /// As with the query itself.
    pub stats: QueryStats,
    /// As with the query itself.
    pub warnings: Vec<String>,
    /// As with the query itself.
    pub infos: Vec<String>,
}

/// A part of a plan.
#[derive(Debug)]
pub struct ExplainedNode {
    /// Position of the part above it; `None` for the first.
    pub parent: Option<usize>,
    /// Parts above it.
    pub depth: usize,
    /// What it does, in a line.
    pub operator: String,
    /// The piece of the query it comes from, cut where it is long.
    pub text: String,
    /// Why reads could or could not be made smaller, and the like.
    pub remarks: Vec<String>,
    /// What a selector would read, by index and block headers.
    pub estimate: Option<Estimate>,
    /// What it took, if the query was evaluated and the part with it.
    pub measured: Option<Measured>,
}

/// What a part took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// Series that came out.
    pub n_series: u64,
    /// Samples that came out, over all steps.
    pub n_samples: u64,
    /// Time with all parts below.
    pub total: Duration,
    /// Time without them. Where reading is shared out, the time until the last thread is done.
    pub own: Duration,
    /// Time of a row-wise step that was moved to where rows are read, summed over threads; part of the time of what
    /// reads.
    pub pushed: Option<Duration>,
    /// What it read.
    pub read: Option<MeasuredRead>,
}

/// What was read for a part.
#[derive(Clone, Copy, Debug, Default)]
pub struct MeasuredRead {
    /// Series found in the index.
    pub n_series: u64,
    /// Those of them whose floats came back as one value, not decoded or not asked for.
    pub n_constant_series: u64,
    /// Samples that came back.
    pub n_samples: u64,
    /// Bytes of sealed samples and timestamps that were fetched; none for what open tables hold.
    pub size_bytes: u64,
    /// Tiles (groups of chunks) that were fetched.
    pub n_tiles: u64,
    /// Groups of tiles and timestamp columns that were there from before.
    pub cache_hits: u64,
    /// Groups of tiles and timestamp columns that had to be fetched.
    pub cache_misses: u64,
    /// Time of the look-up in the index.
    pub index: Duration,
    /// Time of reading and decoding, summed over threads.
    pub decode: Duration,
}

impl Explanation {
    /// The tree of a plan for the query `text`. `estimates` are by address of the selector's matchers; `sharing` says
    /// whether parts that repeat are evaluated once.
    pub(crate) fn new(
        text: &str,
        plan: &Plan,
        estimates: &HashMap<usize, Estimate>,
        sharing: bool,
        analysis: Option<&Analysis>,
    ) -> Self {
        let sharing = sharing.then(|| Sharing::new(plan, analysis));
        let mut explanation = Self::default();
        let mut pending: Vec<(&Plan, Above<'_>, Option<usize>, usize)> =
            vec![(plan, Above::default(), None, 0)];
        while let Some((part, above, parent, depth)) = pending.pop() {
            if explanation.nodes.len() == MAX_NODES {
                explanation.n_left_out += 1;
                pending.extend(part.children().into_iter().map(|child| (child, Above::default(), None, 0)));
                continue;
            }
            let counters = analysis.and_then(|analysis| analysis.of(part)).map(|counters| &**counters);
            let mut remarks = remarks(part, above.part);
            remarks.extend(sharing.as_ref().and_then(|sharing| sharing.remark(part, above)));
            if let Some(counters) = counters {
                remarks.extend(findings(part, counters));
            }
            let is_shared = sharing.as_ref().is_some_and(|sharing| sharing.is_shared(part));
            let below = Above { part: Some(part), shared: if is_shared { Some(part) } else { above.shared } };
            let here = explanation.nodes.len();
            explanation.nodes.push(ExplainedNode {
                parent,
                depth,
                operator: part.head(),
                text: piece(text, part),
                remarks,
                estimate: part
                    .own_selector()
                    .and_then(|selector| estimates.get(&selector.matchers.as_ptr().addr()).copied()),
                measured: counters.and_then(measured),
            });
            let children = part.children().into_iter().rev();
            pending.extend(children.map(|child| (child, below, Some(here), depth + 1)));
        }
        explanation.sum_times();
        explanation
    }

    /// Adds what the query came to.
    pub(crate) fn set_outcome(&mut self, output: QueryOutput, total: Duration, peak_memory_bytes: usize) {
        let (n_series, n_samples) = size(&output.value);
        let QueryOutput { warnings, infos, stats, .. } = output;
        self.outcome =
            Some(Outcome { n_series, n_samples, total, peak_memory_bytes, stats, warnings, infos });
    }

    /// Adds the times of what is below; children come behind their parents.
    fn sum_times(&mut self) {
        for at in (0..self.nodes.len()).rev() {
            let total = match &mut self.nodes[at].measured {
                Some(measured) => {
                    measured.total += measured.own;
                    measured.total
                }
                None => continue,
            };
            let mut above = self.nodes[at].parent;
            // Parts that were not built on their own, such as ranges, pass on what is below them.
            while let Some(parent) = above {
                match &mut self.nodes[parent].measured {
                    Some(measured) => {
                        measured.total += total;
                        break;
                    }
                    None => above = self.nodes[parent].parent,
                }
            }
        }
    }
}

fn size(value: &Value) -> (usize, usize) {
    match value {
        Value::Scalar { .. } | Value::String { .. } => (1, 1),
        Value::Vector(samples) => (samples.len(), samples.len()),
        Value::Matrix(series) => {
            (series.len(), series.iter().map(|series| series.floats.len() + series.histograms.len()).sum())
        }
    }
}

/// What lies above a part.
#[derive(Clone, Copy, Default)]
struct Above<'p> {
    part: Option<&'p Plan>,
    /// The nearest part that is evaluated once for several places.
    shared: Option<&'p Plan>,
}

/// Which parts are evaluated once for several places, and which look as if they might be.
struct Sharing {
    repeats: Repeats,
    /// Parts whose rows were too many to be kept.
    not_kept: HashSet<usize>,
    /// Everything was evaluated again without.
    given_up: bool,
    /// How often a selector stands in the query, by all it says.
    same: HashMap<String, usize>,
    /// How often series are read as of the same times, by what says so.
    alike: HashMap<String, usize>,
}

impl Sharing {
    fn new(plan: &Plan, analysis: Option<&Analysis>) -> Self {
        let repeats = Repeats::find(plan);
        let mut not_kept = HashSet::new();
        let (mut same, mut alike) = (HashMap::new(), HashMap::new());
        plan.walk(&mut |part| {
            if let Some(selector) = part.own_selector()
                && same.len() < MAX_NODES
            {
                *same.entry(part.head()).or_default() += 1;
                *alike.entry(series_and_time(selector)).or_default() += 1;
            }
            if let Some(counters) = analysis.and_then(|analysis| analysis.of(part))
                && counters.not_kept.load(Ordering::Relaxed)
            {
                not_kept.extend(repeats.get(part).map(|occurrence| occurrence.part));
            }
        });
        let given_up = analysis.is_some_and(Analysis::started_over);
        Self { repeats, not_kept, given_up, same, alike }
    }

    /// Whether a part is evaluated once for several places, as far as one can tell.
    fn is_shared(&self, part: &Plan) -> bool {
        let occurrence = self.repeats.get(part);
        !self.given_up && occurrence.is_some_and(|occurrence| !self.not_kept.contains(&occurrence.part))
    }

    fn remark(&self, part: &Plan, above: Above<'_>) -> Option<String> {
        if self.is_shared(part) {
            return Some("shared: evaluated once for all places where it stands".to_owned());
        }
        if self.repeats.get(part).is_some() {
            let why = match self.given_up {
                true => "keeping rows met a limit, and all was evaluated again without",
                false => "its rows would take more than a quarter of the memory of a query",
            };
            return Some(format!("shared: no, {why}"));
        }
        let selector = part.own_selector()?;
        if let Some(shared) = above.shared {
            return Some(format!("shared: with {} above", shared.head()));
        }
        let n_same = self.same.get(&part.head()).copied().unwrap_or(0);
        let n_alike = self.alike.get(&series_and_time(selector)).copied().unwrap_or(0);
        match (n_same, n_alike) {
            (2.., _) if matches!(part.kind, PlanKind::Range { .. }) => Some(format!(
                "shared: no, the same windows stand {n_same} times, but below other functions or at other steps"
            )),
            (2.., _) => Some(format!(
                "shared: no, it stands {n_same} times, but at other steps or where something else is asked of it"
            )),
            (_, 2..) => {
                Some(format!("shared: no, its series are read {n_alike} times, but in different ways"))
            }
            _ => None,
        }
    }
}

/// Which series a selector is about, and as of when.
fn series_and_time(selector: &Selector) -> String {
    let matchers: Vec<String> = selector.matchers.iter().map(ToString::to_string).collect();
    format!("{}{}", matchers.join(", "), selector.time)
}

fn piece(text: &str, part: &Plan) -> String {
    let piece = text.get(part.span.start as usize..part.span.end as usize).unwrap_or_default();
    let mut words = String::new();
    for word in piece.split_whitespace() {
        write!(words, "{}{word}", if words.is_empty() { "" } else { " " }).expect("a string takes all");
    }
    match words.char_indices().nth(MAX_TEXT_CHARS) {
        Some((end, _)) => format!("{}...", &words[..end]),
        None => words,
    }
}

/// What can be said of a part before it is evaluated.
fn remarks(part: &Plan, above: Option<&Plan>) -> Vec<String> {
    let mut remarks = Vec::new();
    match &part.kind {
        PlanKind::Select(selector) => {
            remarks.push(look_ups(selector));
            remarks.push(values(selector, above));
        }
        PlanKind::Range { selector, .. } => {
            remarks.push("look-ups: no, a window needs every sample in it".to_owned());
            remarks.push(window_values(above));
            if selector.extension != Extension::None {
                remarks.push(
                    "reads a look-back further than its windows, for samples at their edges".to_owned(),
                );
            }
        }
        PlanKind::Invariant(_) => {
            remarks.push("evaluated at one step for all: nothing below depends on the step".to_owned());
        }
        PlanKind::Subquery { .. } => {
            remarks.push(
                "evaluated at steps of its own, which are kept until its windows have passed".to_owned(),
            );
        }
        PlanKind::Call { function: Function::Info, .. } => {
            remarks.push("which info series are read depends on the values of the first argument".to_owned());
        }
        _ => {}
    }
    if let Some(selector) = part.own_selector() {
        let whole = "histograms: whole";
        remarks.push(match (selector.histogram_stats, selector.presence) {
            (true, _) => "histograms: counts and sums, buckets are not kept".to_owned(),
            (false, true) => format!("{whole}, for statistics count their size"),
            (false, false) => whole.to_owned(),
        });
        remarks.push("labels: all, for equal label sets and annotations are told by all of them".to_owned());
    }
    remarks
}

fn look_ups(selector: &Selector) -> String {
    match (selector.extension, selector.time) {
        (Extension::Smoothed, _) => "look-ups: no, smoothed values lie between two samples".to_owned(),
        (_, DataTime::Fixed(_)) => "look-ups: the last sample before one fixed time".to_owned(),
        (_, DataTime::Step { .. }) => {
            "look-ups: the last sample before each step, others are passed over".to_owned()
        }
    }
}

/// Whether values of an instant selector are read, and why.
fn values(selector: &Selector, above: Option<&Plan>) -> String {
    // What is evaluated once hands on what its selector gives.
    let user = above.map(|above| (above, above.head()));
    if selector.presence {
        let by = user.map_or_else(String::new, |(_, head)| format!(", {head} asks only for presence"));
        return format!("values: not read{by}");
    }
    let why = match user {
        None => "they are the result".to_owned(),
        Some((above, head)) => match &above.kind {
            PlanKind::Call { function: Function::Timestamp | Function::StartTimestamp, .. } => {
                return format!("values: not read, {head} asks only for times");
            }
            PlanKind::Call { function: Function::Absent, .. }
            | PlanKind::Aggregate { op: AggregateOp::Count | AggregateOp::Group, .. } => {
                "smoothed decides whether there is one".to_owned()
            }
            PlanKind::Binary { op: BinaryOp::And | BinaryOp::Or | BinaryOp::Unless, .. } => {
                format!("{head} hands them on")
            }
            PlanKind::Invariant(_) => "what is above may want them".to_owned(),
            _ => format!("{head} needs them"),
        },
    };
    format!("values: read, {why}")
}

/// Whether values of a range selector are read, and why.
fn window_values(above: Option<&Plan>) -> String {
    match above.map(|above| &above.kind) {
        Some(PlanKind::Call { function, .. }) if counts_only(*function) => {
            format!("values: not read, {}() asks only for times", function.name())
        }
        Some(PlanKind::Call { function, .. }) => format!("values: read, {}() needs them", function.name()),
        _ => "values: read, they are the result".to_owned(),
    }
}

/// What shows only once a part was evaluated.
fn findings(part: &Plan, counters: &Counters) -> Vec<String> {
    let mut findings = Vec::new();
    let by_row = matches!(part.kind, PlanKind::Negate(_) | PlanKind::Binary { .. } | PlanKind::Call { .. });
    if counters.pushed.load(Ordering::Relaxed) && by_row {
        findings.push("row by row: done by the threads that read".to_owned());
    }
    let constant = counters.reads.constant_series.load(Ordering::Relaxed);
    let n_series = counters.reads.series.load(Ordering::Relaxed);
    let presence = part.own_selector().is_some_and(|selector| selector.presence);
    if n_series > 0 && !presence {
        findings.push(format!("constant rows: {constant} of {n_series} series came back as a single value"));
    }
    findings
}

fn nanos(counter: &AtomicU64) -> Duration {
    Duration::from_nanos(counter.load(Ordering::Relaxed))
}

fn measured(counters: &Counters) -> Option<Measured> {
    let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let read = measured_read(&counters.reads);
    let built = counters.built.load(Ordering::Relaxed);
    (built || read.is_some()).then(|| Measured {
        n_series: if built { number(&counters.series) } else { number(&counters.reads.series) },
        n_samples: if built { number(&counters.samples) } else { number(&counters.reads.samples) },
        total: Duration::ZERO,
        own: nanos(&counters.own_ns),
        pushed: counters.pushed.load(Ordering::Relaxed).then(|| nanos(&counters.pushed_ns)),
        read,
    })
}

fn measured_read(reads: &Reads) -> Option<MeasuredRead> {
    let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    (number(&reads.selects) > 0).then(|| MeasuredRead {
        n_series: number(&reads.series),
        n_constant_series: number(&reads.constant_series),
        n_samples: number(&reads.samples),
        size_bytes: number(&reads.stats.size_bytes),
        n_tiles: number(&reads.stats.n_tiles),
        cache_hits: number(&reads.stats.cache_hits),
        cache_misses: number(&reads.stats.cache_misses),
        index: nanos(&reads.index_ns),
        decode: nanos(&reads.read_ns),
    })
}

/// The tree as text, a line a part, remarks below it.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.nodes {
            let indent = node.depth * 2;
            write!(f, "{:indent$}{}", "", node.operator)?;
            if let Some(measured) = &node.measured {
                write!(f, "  [{measured}]")?;
            }
            f.write_char('\n')?;
            if let Some(Estimate { n_series, n_samples, size_bytes }) = node.estimate {
                writeln!(
                    f,
                    "{:indent$}  . at most {n_series} series, {n_samples} samples, {size_bytes} bytes by estimate",
                    ""
                )?;
            }
            if let Some(read) = node.measured.and_then(|measured| measured.read) {
                writeln!(f, "{:indent$}  . {read}", "")?;
            }
            for remark in &node.remarks {
                writeln!(f, "{:indent$}  - {remark}", "")?;
            }
        }
        if self.n_left_out > 0 {
            writeln!(f, "{} more parts are left out", self.n_left_out)?;
        }
        let Some(outcome) = &self.outcome else { return Ok(()) };
        writeln!(
            f,
            "result: {} series, {} samples in {}; at most {} bytes of memory",
            outcome.n_series,
            outcome.n_samples,
            Millis(outcome.total),
            outcome.peak_memory_bytes
        )?;
        for warning in &outcome.warnings {
            writeln!(f, "{warning}")?;
        }
        outcome.infos.iter().try_for_each(|info| writeln!(f, "{info}"))
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n_series, n_samples, total, own, pushed, .. } = *self;
        write!(f, "{n_series} series, {n_samples} samples, {}, own {}", Millis(total), Millis(own))?;
        match pushed {
            Some(pushed) => write!(f, ", {} among the reads", Millis(pushed)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for MeasuredRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            n_series, n_samples, size_bytes, n_tiles, cache_hits, cache_misses, index, decode, ..
        } = *self;
        write!(
            f,
            "read {n_series} series, {n_samples} samples: index {}, reading {}",
            Millis(index),
            Millis(decode)
        )?;
        write!(f, "; {size_bytes} bytes in {n_tiles} tiles")?;
        write!(f, "; caches: {cache_hits} hits, {cache_misses} misses")
    }
}

/// Milliseconds with three decimals.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ms", self.0.as_secs_f64() * 1000.0)
    }
}

#[cfg(test)]
mod tests;
