//! What a query would read, from index and block headers, before any sample is read: a query over its limits is
//! refused at once instead of after a minute.

use crate::error::QueryError;
use crate::eval::batch::Grid;
use crate::eval::build::subquery_grid;
use crate::functions::Extension;
use crate::parser::Function;
use crate::plan::{DataTime, Plan, PlanKind, Selector};
use chronolith_model::Matcher;
use chronolith_model::queryable::{Estimate, QueryContext, Select, Snapshot};
use std::collections::HashMap;

/// Most that all selectors of a query may read together; 0 sets no limit.
///
/// A query is refused here only if its estimate is over a limit, whatever it would hold in memory. The defaults are
/// therefore far beyond what can be read within the default timeout: they stop a mistake, not a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostLimits {
    /// Series, counted in each block (`--query.max-series-read`).
    pub series: u64,
    /// Samples (`--query.max-samples-read`).
    pub samples: u64,
    /// Bytes (`--query.max-bytes-read`).
    pub size_bytes: u64,
}

impl Default for CostLimits {
    fn default() -> Self {
        // A series takes some hundred bytes of labels, a sample a nanosecond of decoding at the very least: the one
        // meets the memory limit long before, the other the timeout on a dozen cores.
        Self { series: 100_000_000, samples: 1_000_000_000_000, size_bytes: 0 }
    }
}

/// Refuses a plan that would read more than the limits allow.
pub(crate) fn check(
    limits: &CostLimits,
    snapshot: &dyn Snapshot,
    cx: &dyn QueryContext,
    plan: &Plan,
    grid: Grid,
    lookback_ms: i64,
) -> Result<(), QueryError> {
    let mut reads = Vec::new();
    collect(plan, grid, lookback_ms, &mut reads);
    let (Some(mint), Some(maxt)) =
        (reads.iter().map(|read| read.mint).min(), reads.iter().map(|read| read.maxt).max())
    else {
        return Ok(());
    };
    // No read can be larger than all of the store in that time: where that is small, no index is asked.
    let whole = sum(snapshot, cx, &[Read { matchers: &[], mint, maxt }])?;
    let n_reads = reads.len() as u64;
    let at_most = Estimate {
        n_series: whole.n_series.saturating_mul(n_reads),
        n_samples: whole.n_samples.saturating_mul(n_reads),
        size_bytes: whole.size_bytes.saturating_mul(n_reads),
    };
    if refusal(limits, at_most).is_none() {
        return Ok(());
    }
    match refusal(limits, sum(snapshot, cx, &reads)?) {
        Some(text) => Err(QueryError::OverBudget(text)),
        None => Ok(()),
    }
}

/// What each selector would read, by address of its matchers.
pub(crate) fn by_selector(
    snapshot: &dyn Snapshot,
    cx: &dyn QueryContext,
    plan: &Plan,
    grid: Grid,
    lookback_ms: i64,
) -> Result<HashMap<usize, Estimate>, QueryError> {
    let mut reads = Vec::new();
    collect(plan, grid, lookback_ms, &mut reads);
    let estimate = |read: Read<'_>| Ok((read.matchers.as_ptr().addr(), sum(snapshot, cx, &[read])?));
    reads.into_iter().map(estimate).collect()
}

/// What one selector reads: milliseconds, both ends included.
#[derive(Clone, Copy)]
struct Read<'p> {
    matchers: &'p [Matcher],
    mint: i64,
    maxt: i64,
}

fn sum(snapshot: &dyn Snapshot, cx: &dyn QueryContext, reads: &[Read<'_>]) -> Result<Estimate, QueryError> {
    let mut total = Estimate::default();
    for &Read { matchers, mint, maxt } in reads {
        cx.check()?;
        let select = Select::whole(matchers, mint, maxt);
        let estimate = snapshot.estimate(&select)?;
        total.n_series = total.n_series.saturating_add(estimate.n_series);
        total.n_samples = total.n_samples.saturating_add(estimate.n_samples);
        total.size_bytes = total.size_bytes.saturating_add(estimate.size_bytes);
    }
    Ok(total)
}

fn refusal(limits: &CostLimits, estimate: Estimate) -> Option<String> {
    [
        ("series", estimate.n_series, limits.series, "--query.max-series-read"),
        ("samples", estimate.n_samples, limits.samples, "--query.max-samples-read"),
        ("bytes", estimate.size_bytes, limits.size_bytes, "--query.max-bytes-read"),
    ]
    .into_iter()
    .find(|&(_, found, limit, _)| limit > 0 && found > limit)
    .map(|(what, found, limit, flag)| {
        format!("the query would read an estimated {found} {what}, which is more than the limit of {limit} ({flag})")
    })
}

/// The reads of all selectors. Info series are left out: which of them are read depends on values.
fn collect<'p>(plan: &'p Plan, grid: Grid, lookback_ms: i64, reads: &mut Vec<Read<'p>>) {
    if grid.n_steps == 0 {
        return;
    }
    let read = |selector: &'p Selector, before: i64| {
        let (before, after) = match selector.extension {
            Extension::None => (before, 0),
            Extension::Anchored => (before.saturating_add(lookback_ms), 0),
            Extension::Smoothed => (before.saturating_add(lookback_ms), lookback_ms),
        };
        Read {
            matchers: &selector.matchers,
            mint: selector.time.at(grid.start).saturating_sub(before).saturating_add(1),
            maxt: last(selector.time, &grid).saturating_add(after),
        }
    };
    match &plan.kind {
        PlanKind::Number(_) | PlanKind::Text(_) => {}
        PlanKind::Select(selector) => reads.push(read(selector, lookback_ms)),
        PlanKind::Range { selector, range_ms } => reads.push(read(selector, *range_ms)),
        PlanKind::Subquery { inner, range_ms, step_ms, time } => {
            collect(inner, subquery_grid(&grid, *time, *range_ms, *step_ms), lookback_ms, reads);
        }
        PlanKind::Call { function: Function::Info, args } => {
            args.iter().take(1).for_each(|arg| collect(arg, grid, lookback_ms, reads));
        }
        PlanKind::Call { args, .. } => args.iter().for_each(|arg| collect(arg, grid, lookback_ms, reads)),
        PlanKind::Aggregate { inner, param, .. } => {
            collect(inner, grid, lookback_ms, reads);
            if let Some(param) = param {
                collect(param, grid, lookback_ms, reads);
            }
        }
        PlanKind::Binary { lhs, rhs, .. } => {
            collect(lhs, grid, lookback_ms, reads);
            collect(rhs, grid, lookback_ms, reads);
        }
        PlanKind::Negate(inner) | PlanKind::Plus(inner) => collect(inner, grid, lookback_ms, reads),
        PlanKind::Invariant(inner) => collect(inner, Grid::instant(grid.start), lookback_ms, reads),
    }
}

fn last(time: DataTime, grid: &Grid) -> i64 {
    time.at(grid.end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::{ParserOptions, parse_expr};
    use crate::plan::{Times, plan};

    /// The reads of a query over steps from 1,000 s to 2,000 s, in seconds, with a look-back of 300 s.
    fn check(text: &str, expected: &[(i64, i64)]) {
        let expr = parse_expr(text, ParserOptions::ALL).unwrap();
        let times =
            Times { start: 1_000_000, end: 2_000_000, interval_ms: 10_000, default_subquery_step_ms: 60_000 };
        let plan = plan(&expr, &times).unwrap();
        let mut reads = Vec::new();
        collect(&plan, Grid::new(1_000_000, 2_000_000, 10_000), 300_000, &mut reads);
        let found: Vec<_> = reads.iter().map(|read| ((read.mint - 1) / 1000, read.maxt / 1000)).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn selectors_read_what_their_steps_look_at() {
        check("a", &[(700, 2000)]);
        check("a offset 100s", &[(600, 1900)]);
        check("a offset -100s", &[(800, 2100)]);
        check("a @ 50", &[(-250, 50)]);
        check("rate(a[1m]) + rate(b[2m] offset 1m)", &[(940, 2000), (820, 1940)]);
        check("rate(a[1m] smoothed)", &[(640, 2300)]);
        check("sum_over_time(rate(a[1m])[500s:100s])", &[(540, 2000)]);
        check("sum_over_time(a[500s:100s] offset 100s)", &[(200, 1900)]);
        check("max_over_time(a[500s:100s] @ 1000)", &[(300, 1000)]);
        check("topk(scalar(a), b)", &[(700, 2000), (700, 2000)]);
        check("info(a, {x=\"y\"})", &[(700, 2000)]);
        check("1 + vector(2)", &[]);
    }

    #[test]
    fn the_text_names_limit_estimate_and_flag() {
        let limits = CostLimits { series: 10, samples: 0, size_bytes: 100 };
        let estimate = |n_series, n_samples, size_bytes| Estimate { n_series, n_samples, size_bytes };
        assert_eq!(refusal(&limits, estimate(10, 1000, 100)), None);
        assert_eq!(
            refusal(&limits, estimate(11, 1000, 101)).as_deref(),
            Some(
                "the query would read an estimated 11 series, which is more than the limit of 10 (--query.max-series-read)"
            )
        );
        assert!(refusal(&limits, estimate(1, 1000, 101)).unwrap().contains("--query.max-bytes-read"));
    }
}
