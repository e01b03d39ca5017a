//! `info()`: series get the labels of the info series with the same `instance` and `job`.
//!
//! Which info series are wanted depends on the series to be enriched, so these are evaluated when the operator
//! is built, and a late select reads the info series. Of several info series of one metric the newest sample
//! wins at each step; a series whose winners change over the steps comes out as several series.
//!
//! Source: Prometheus v3.14, `promql/info.go`.

use super::batch::{Batch, Grid, Row, Rows};
use super::build::{Builder, Place};
use super::labels::{LabelSetId, SymbolPairs, value_of};
use super::lookup::Wanted;
use super::merge::{Collision, merged};
use super::{Cx, Kept, Operator, OutSeries};
use crate::annotations::Annotations;
use crate::error::QueryError;
use crate::functions::Extension;
use crate::plan::{DataTime, LabelNeed, Plan, PlanKind, Selector};
use chronolith_model::symbols::{EMPTY, Symbol};
use chronolith_model::{METRIC_NAME, MatchOp, Matcher};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The labels that tell which info series belongs to a series.
const IDENTIFYING_LABELS: [&str; 2] = ["instance", "job"];

/// The info metric that is taken where the query names none.
const DEFAULT_INFO_METRIC: &str = "target_info";

/// Above this many values an identifying label is not asked of the index by a pattern, but compared afterwards.
const MAX_PATTERN_VALUES: usize = 10_000;

/// What the second argument asks for.
struct Request {
    /// Conditions on the metric names of info series.
    names: Vec<Matcher>,
    /// Conditions on their other labels. Only labels named here are taken over, or all if there are none.
    data: Vec<Matcher>,
}

impl Request {
    fn new(selector: Option<&Plan>) -> Result<Self, QueryError> {
        let mut selector = selector;
        while let Some(Plan { kind: PlanKind::Invariant(inner), .. }) = selector {
            selector = Some(inner);
        }
        let matchers = match selector.map(|plan| &plan.kind) {
            None => &[][..],
            Some(PlanKind::Select(selector)) => &selector.matchers,
            Some(_) => return Err(QueryError::execution("info() takes label selectors only")),
        };
        let (names, data): (Vec<Matcher>, Vec<Matcher>) =
            matchers.iter().cloned().partition(|matcher| matcher.name == METRIC_NAME);
        Ok(Self { names: effective_names(names), data })
    }

    /// Whether a label of an info series is taken over.
    fn takes(&self, name: &str) -> bool {
        name != METRIC_NAME && (self.data.is_empty() || self.data.iter().any(|matcher| matcher.name == name))
    }
}

/// Conditions that exclude names need one that includes some.
fn effective_names(mut names: Vec<Matcher>) -> Vec<Matcher> {
    if names.is_empty() {
        return vec![Matcher::equal(METRIC_NAME, DEFAULT_INFO_METRIC)];
    }
    if !names.iter().any(|matcher| matches!(matcher.op, MatchOp::Equal | MatchOp::Regex)) {
        let any_info = Matcher::new(MatchOp::Regex, METRIC_NAME, ".+_info");
        names.insert(0, any_info.expect("the pattern is well-formed"));
    }
    names
}

/// When the info series are looked at: when the first selector of the first argument looks at its own.
fn data_time(plan: &Plan) -> Option<DataTime> {
    match &plan.kind {
        PlanKind::Number(_) | PlanKind::Text(_) => None,
        PlanKind::Select(selector) | PlanKind::Range { selector, .. } => Some(selector.time),
        PlanKind::Subquery { inner, time, .. } => Some(match (data_time(inner)?, *time) {
            (DataTime::Fixed(at), _) => DataTime::Fixed(at),
            (DataTime::Step { offset_ms }, DataTime::Fixed(at)) => {
                DataTime::Fixed(at.saturating_sub(offset_ms))
            }
            (DataTime::Step { offset_ms: inner }, DataTime::Step { offset_ms: outer }) => {
                DataTime::Step { offset_ms: inner.saturating_add(outer) }
            }
        }),
        PlanKind::Call { args, .. } => args.iter().find_map(data_time),
        PlanKind::Aggregate { inner, param, .. } => {
            data_time(inner).or_else(|| param.as_deref().and_then(data_time))
        }
        PlanKind::Binary { .. } => {
            // Chains of operators lean to the left and may be long.
            let (mut chain, mut first) = (vec![plan], plan);
            while let PlanKind::Binary { lhs, .. } = &first.kind {
                first = lhs;
                chain.push(first);
            }
            data_time(first).or_else(|| {
                chain.iter().rev().find_map(|link| match &link.kind {
                    PlanKind::Binary { rhs, .. } => data_time(rhs),
                    _ => None,
                })
            })
        }
        PlanKind::Negate(inner) | PlanKind::Plus(inner) | PlanKind::Invariant(inner) => data_time(inner),
    }
}

/// Series to be enriched.
struct Base {
    series: Vec<OutSeries>,
    rows: Rows,
    /// Those that are info series themselves, which come out as they are.
    ignored: Vec<bool>,
    /// Steps at which any of them has a sample.
    any: Vec<u64>,
}

/// The info series of one metric with the same identifying labels.
struct Group {
    /// By step: index of the info series with the newest sample.
    winners: Vec<Option<u32>>,
}

/// Metric name and identifying labels of an info series.
type Key = [Symbol; 1 + IDENTIFYING_LABELS.len()];

/// The operator of `info(args[0], args[1])`.
pub(crate) fn info(
    builder: &mut Builder<'_, '_>,
    args: &[Plan],
    place: &Place,
) -> Result<Box<dyn Operator>, QueryError> {
    let (cx, grid) = (builder.cx, place.grid);
    let request = Request::new(args.get(1))?;
    let mut operator = builder.vector(&args[0], place)?;
    let rows = cx.drain(&mut *operator)?;
    let series = operator.series().to_vec();
    let notes = operator.finish();
    let base = Base::new(cx, &grid, series, rows, &request);
    let time = data_time(&args[0]).unwrap_or(DataTime::Step { offset_ms: 0 });
    let identifying = cx.intern_names(&IDENTIFYING_LABELS.map(str::to_owned));
    let infos = match base.info_matchers(cx, &identifying, &request) {
        None => Infos::default(),
        Some(matchers) => {
            let selector = Selector {
                matchers,
                time,
                at: None,
                extension: Extension::None,
                span: args[0].span,
                histogram_stats: false,
                presence: false,
                labels: LabelNeed::All,
            };
            let mut operator = builder.select_instant(&selector, place, Wanted::InfoTimestamp)?;
            let rows = cx.drain(&mut *operator)?;
            Infos::new(cx, &grid, operator.series(), &rows, &identifying, &base)?
        }
    };
    let Enriched { series, rows, failure } = enrich(cx, &grid, &base, &infos, &identifying, &request)?;
    let kept = Kept { grid, series, rows, at: 0, notes };
    let Some(failure) = failure else { return merged(cx, Box::new(kept), grid, Collision::AtStep) };
    let error = failure.1.clone();
    // Equal labels at an earlier step come first.
    merged(cx, Box::new(Failed { kept, failure }), grid, Collision::AtStep)?;
    Err(error)
}

/// Rows, and then the error that one of their steps met.
struct Failed {
    kept: Kept,
    failure: (usize, QueryError),
}

impl Operator for Failed {
    fn series(&self) -> &[OutSeries] {
        self.kept.series()
    }

    fn series_mut(&mut self) -> &mut [OutSeries] {
        self.kept.series_mut()
    }

    fn next(&mut self, cx: &Cx<'_>, out: &mut Batch) -> Result<bool, QueryError> {
        if self.kept.next(cx, out)? { Ok(true) } else { Err(self.failure.1.clone()) }
    }

    fn failed_at(&self) -> Option<usize> {
        Some(self.failure.0)
    }

    fn finish(self: Box<Self>) -> Annotations {
        self.kept.notes
    }
}

impl Base {
    fn new(cx: &Cx<'_>, grid: &Grid, series: Vec<OutSeries>, rows: Rows, request: &Request) -> Self {
        let is_info = |series: &OutSeries| {
            let name = cx.label_text(series.labels, cx.names.metric);
            request.names.iter().all(|matcher| matcher.matches(&name))
        };
        let ignored = series.iter().map(is_info).collect();
        let mut any = vec![0; grid.n_words()];
        for index in 0..rows.len() {
            rows.row(index).mark_any(&mut any);
        }
        Self { series, rows, ignored, any }
    }

    /// What selects the info series that may be needed; `None` if none is.
    fn info_matchers(&self, cx: &Cx<'_>, identifying: &[Symbol], request: &Request) -> Option<Vec<Matcher>> {
        let mut matchers = Vec::new();
        for (name, &symbol) in IDENTIFYING_LABELS.iter().zip(identifying) {
            let wanted = self.series.iter().enumerate();
            let wanted = wanted.filter(|&(at, _)| !self.ignored[at] && !self.rows.row(at).is_empty());
            let values: BTreeSet<Symbol> =
                wanted.map(|(_, series)| cx.label_sets.value(series.labels, symbol)).collect();
            let texts: Vec<Arc<str>> = values
                .into_iter()
                .filter(|value| *value != EMPTY)
                .map(|value| cx.store.symbols.resolve(value))
                .collect();
            if texts.is_empty() {
                continue;
            }
            let pattern = (texts.len() <= MAX_PATTERN_VALUES)
                .then(|| texts.iter().map(|text| quote_pattern(text)).collect::<Vec<_>>().join("|"));
            let one_of = pattern.and_then(|pattern| Matcher::new(MatchOp::Regex, *name, pattern).ok());
            let present = || Matcher::new(MatchOp::NotEqual, *name, "").expect("no pattern to compile");
            matchers.push(one_of.unwrap_or_else(present));
        }
        if matchers.is_empty() {
            return None;
        }
        matchers.extend(request.data.iter().cloned());
        matchers.extend(request.names.iter().cloned());
        Some(matchers)
    }
}

/// A pattern that matches exactly this text.
fn quote_pattern(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// The info series, by name and identifying labels.
#[derive(Default)]
struct Infos {
    labels: Vec<Arc<SymbolPairs>>,
    groups: HashMap<Key, Group>,
    /// Metric names, sorted as text.
    names: Vec<Symbol>,
    /// Several newest samples: the first step at which there are, and what to say.
    error: Option<(usize, String)>,
}

impl Infos {
    /// `rows` hold the times of the samples that are seen.
    fn new(
        cx: &Cx<'_>,
        grid: &Grid,
        series: &[OutSeries],
        rows: &Rows,
        identifying: &[Symbol],
        base: &Base,
    ) -> Result<Self, QueryError> {
        let labels: Vec<Arc<SymbolPairs>> =
            series.iter().map(|series| cx.label_sets.get(series.labels)).collect();
        let mut groups: HashMap<Key, Group> = HashMap::new();
        let mut error: Option<(usize, String)> = None;
        let mut first_error = |step: usize, text: &dyn Fn() -> String| {
            if error.as_ref().is_none_or(|(at, _)| step < *at) {
                error = Some((step, text()));
            }
        };
        for (index, pairs) in labels.iter().enumerate() {
            cx.check()?;
            let row = rows.row(index);
            if row.histograms.is_some_and(|column| !column.is_empty()) {
                let labels = cx.label_sets.to_labels(&cx.store.symbols, series[index].labels);
                let text = format!("this should be an info metric, with float samples: {labels}");
                return Err(QueryError::execution(text));
            }
            let key = key(value_of(pairs, cx.names.metric), pairs, identifying);
            let group = groups.entry(key).or_insert_with(|| Group { winners: vec![None; grid.n_steps] });
            for step in base.steps_with(row) {
                let winner = &mut group.winners[step];
                let Some(before) = *winner else {
                    *winner = Some(index as u32);
                    continue;
                };
                let (old, new) = (rows.row(before as usize).values[step], row.values[step]);
                if old < new {
                    *winner = Some(index as u32);
                } else if old == new {
                    first_error(step, &|| {
                        let text = |index: usize| {
                            cx.label_sets.to_labels(&cx.store.symbols, series[index].labels).to_string()
                        };
                        let milliseconds = (old * 1000.0).round() as i64;
                        format!(
                            "found duplicate series for info metric: existing {} @ {milliseconds}, new {} @ \
                             {milliseconds}",
                            text(before as usize),
                            text(index)
                        )
                    });
                }
            }
        }
        let by_text: BTreeMap<Arc<str>, Symbol> =
            groups.keys().map(|key| (cx.store.symbols.resolve(key[0]), key[0])).collect();
        Ok(Self { labels, groups, names: by_text.into_values().collect(), error })
    }
}

impl Base {
    /// The steps at which `row` has a sample and any series is there to be enriched.
    fn steps_with(&self, row: Row<'_>) -> Vec<usize> {
        let mut words = vec![0; self.any.len()];
        row.mark_any(&mut words);
        words.iter_mut().zip(&self.any).for_each(|(word, any)| *word &= any);
        super::batch::bits(&words).collect()
    }
}

fn key(name: Symbol, pairs: &SymbolPairs, identifying: &[Symbol]) -> Key {
    [name, value_of(pairs, identifying[0]), value_of(pairs, identifying[1])]
}

/// What comes out, by series and labels, in the order of the series and of the first step with those labels.
struct Enriched {
    series: Vec<OutSeries>,
    rows: Rows,
    /// The error that Prometheus would have met first, but for equal labels, and its step.
    failure: Option<(usize, QueryError)>,
}

fn enrich(
    cx: &Cx<'_>,
    grid: &Grid,
    base: &Base,
    infos: &Infos,
    identifying: &[Symbol],
    request: &Request,
) -> Result<Enriched, QueryError> {
    // Without a matching info series a series stays only if no label has to be there.
    let may_miss = request.data.iter().all(Matcher::matches_empty);
    let mut out_series = Vec::new();
    let mut out_rows = Rows::default();
    // The error Prometheus would have met first: at a step the info series are looked at before any other.
    let mut first_error =
        infos.error.as_ref().map(|(step, text)| ((*step, 0), QueryError::execution(text.as_str())));
    for (index, series) in base.series.iter().enumerate() {
        let row = base.rows.row(index);
        if base.ignored[index] {
            let mut batch = Batch::new(cx, grid, out_series.len(), 1)?;
            batch.copy_row(0, row);
            push(&mut out_series, &mut out_rows, batch, &[*series])?;
            continue;
        }
        let pairs = cx.label_sets.get(series.labels);
        let groups: Vec<&Group> = infos
            .names
            .iter()
            .filter_map(|&name| infos.groups.get(&key(name, &pairs, identifying)))
            .collect();
        let mut known: HashMap<Vec<u32>, Option<usize>> = HashMap::new();
        let mut parts: Vec<(LabelSetId, Vec<usize>)> = Vec::new();
        for step in all_steps(grid, row) {
            let winners: Vec<u32> = groups.iter().filter_map(|group| group.winners[step]).collect();
            let part = match known.get(&winners) {
                Some(part) => *part,
                None => {
                    let labels = if winners.is_empty() && !may_miss {
                        None
                    } else {
                        match enriched(cx, series.labels, &pairs, infos, &winners, request) {
                            Ok(labels) => Some(labels),
                            Err(error) => {
                                let place = (step, 1 + index);
                                if first_error.as_ref().is_none_or(|(first, _)| place < *first) {
                                    first_error = Some((place, error));
                                }
                                break;
                            }
                        }
                    };
                    let part = labels.map(|labels| {
                        parts.iter().position(|(known, _)| *known == labels).unwrap_or_else(|| {
                            parts.push((labels, Vec::new()));
                            parts.len() - 1
                        })
                    });
                    known.insert(winners, part);
                    part
                }
            };
            if let Some(part) = part {
                parts[part].1.push(step);
            }
        }
        cx.charge_labels()?;
        let mut batch = Batch::new(cx, grid, out_series.len(), parts.len())?;
        for (at, (_, steps)) in parts.iter().enumerate() {
            copy_steps(&mut batch, at, row, steps);
        }
        let new: Vec<OutSeries> =
            parts.iter().map(|(labels, _)| OutSeries { labels: *labels, ..*series }).collect();
        push(&mut out_series, &mut out_rows, batch, &new)?;
    }
    let failure = first_error.map(|((step, _), error)| (step, error));
    Ok(Enriched { series: out_series, rows: out_rows, failure })
}

fn push(
    out_series: &mut Vec<OutSeries>,
    out_rows: &mut Rows,
    mut batch: Batch,
    series: &[OutSeries],
) -> Result<(), QueryError> {
    batch.charge_samples()?;
    out_series.extend_from_slice(series);
    out_rows.push(batch);
    Ok(())
}

fn all_steps(grid: &Grid, row: Row<'_>) -> Vec<usize> {
    let mut words = vec![0; grid.n_words()];
    row.mark_any(&mut words);
    super::batch::bits(&words).collect()
}

/// Copies the samples of some steps, ascending.
fn copy_steps(batch: &mut Batch, at: usize, row: Row<'_>, steps: &[usize]) {
    let mut histograms = super::batch::HistogramColumn::default();
    let mut target = batch.row_mut(at);
    for &step in steps {
        if row.has(step) {
            target.set(step, row.values[step]);
        } else if let Some(histogram) = row.histograms.and_then(|column| column.get(step)) {
            histograms.push(step, Arc::clone(histogram));
        }
    }
    target.finish();
    batch.set_histograms(at, histograms);
}

/// The labels of a series with those of its info series. Labels it has itself stay.
fn enriched(
    cx: &Cx<'_>,
    labels: LabelSetId,
    own: &SymbolPairs,
    infos: &Infos,
    winners: &[u32],
    request: &Request,
) -> Result<LabelSetId, QueryError> {
    let symbols = &cx.store.symbols;
    let mut taken: HashMap<Symbol, Symbol> = HashMap::new();
    let mut result = labels;
    for &winner in winners {
        for &(name, value) in infos.labels[winner as usize].iter() {
            let text = symbols.resolve(name);
            if !request.takes(&text) {
                continue;
            }
            if taken.get(&name).is_some_and(|before| *before != value) {
                return Err(QueryError::execution(format!("conflicting label: {text}")));
            }
            if value_of(own, name) != EMPTY {
                continue;
            }
            taken.insert(name, value);
            result = cx.label_sets.with(symbols, result, name, value);
        }
    }
    Ok(result)
}
