//! How far from its step a part of a query looks, and whether its value at a step depends on that step alone.

use super::{DataTime, Plan, PlanKind, Selector};
use crate::functions::Extension;
use crate::parser::Function;
use chronolith_model::{METRIC_NAME, MatchOp, Matcher};

/// The samples that the value at a step depends on: those in `[step - before_ms, step + after_ms]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Negative if an offset keeps all samples away from the step.
    pub(crate) before_ms: i64,
    pub(crate) after_ms: i64,
}

impl Reach {
    const NOWHERE: Self = Self { before_ms: i64::MIN, after_ms: i64::MIN };

    fn or(self, other: Self) -> Self {
        Self { before_ms: self.before_ms.max(other.before_ms), after_ms: self.after_ms.max(other.after_ms) }
    }

    /// As seen from where this is looked at from `[step - range - offset, step - offset]`.
    fn through(self, range_ms: i64, offset_ms: i64) -> Self {
        Self {
            before_ms: self.before_ms.saturating_add(range_ms).saturating_add(offset_ms),
            after_ms: self.after_ms.saturating_sub(offset_ms),
        }
    }
}

impl Plan {
    /// How far the query looks from each step; `None` if its value at a step may depend on other steps, on where
    /// the query begins and ends, or on series that have no sample near.
    ///
    /// Functions of the query's own times (`start()`) are numbers in a plan already: they are asked for before.
    pub(crate) fn reach(&self, lookback_ms: i64) -> Option<Reach> {
        match &self.kind {
            PlanKind::Number(_) | PlanKind::Text(_) => Some(Reach::NOWHERE),
            PlanKind::Select(selector) => selector.reach(lookback_ms, lookback_ms),
            PlanKind::Range { selector, range_ms } => selector.reach(*range_ms, lookback_ms),
            PlanKind::Subquery { inner, range_ms, time, .. } => match time {
                DataTime::Step { offset_ms } => {
                    Some(inner.reach(lookback_ms)?.through(*range_ms, *offset_ms))
                }
                DataTime::Fixed(_) => None,
            },
            // Which info series are read depends on all values.
            PlanKind::Call { function: Function::Info, .. } => None,
            PlanKind::Call { args, .. } => all(args.iter(), lookback_ms),
            PlanKind::Aggregate { inner, param, .. } => match param.as_ref().map(|param| &param.kind) {
                None | Some(PlanKind::Number(_) | PlanKind::Text(_)) => inner.reach(lookback_ms),
                // Whether a parameter is an error is asked of all its values together.
                Some(_) => None,
            },
            PlanKind::Binary { lhs, rhs, .. } => all([&**lhs, &**rhs].into_iter(), lookback_ms),
            PlanKind::Negate(inner) | PlanKind::Plus(inner) | PlanKind::Invariant(inner) => {
                inner.reach(lookback_ms)
            }
        }
    }
}

fn all<'p>(mut parts: impl Iterator<Item = &'p Plan>, lookback_ms: i64) -> Option<Reach> {
    parts.try_fold(Reach::NOWHERE, |reach, part| Some(reach.or(part.reach(lookback_ms)?)))
}

impl Selector {
    fn reach(&self, range_ms: i64, lookback_ms: i64) -> Option<Reach> {
        let DataTime::Step { offset_ms } = self.time else { return None };
        // Without a name two series may become one when it is dropped: an error if both are anywhere in the
        // query, not only at the same step.
        if !self.matchers.iter().any(names_metric) {
            return None;
        }
        let (before_ms, after_ms) = match self.extension {
            Extension::None => (range_ms, 0),
            Extension::Anchored => (range_ms.saturating_add(lookback_ms), 0),
            Extension::Smoothed => (range_ms.saturating_add(lookback_ms), lookback_ms),
        };
        Some(Reach { before_ms, after_ms }.through(0, offset_ms))
    }
}

fn names_metric(matcher: &Matcher) -> bool {
    matcher.name == METRIC_NAME && matcher.op == MatchOp::Equal && !matcher.value.is_empty()
}

#[cfg(test)]
mod tests {
    use crate::parser::{ParserOptions, parse_expr};
    use crate::plan::{Times, plan};

    /// Seconds before and after, with a look-back of 300 s.
    fn reach(text: &str) -> Option<(i64, i64)> {
        let expr = parse_expr(text, ParserOptions::ALL).expect(text);
        let times =
            Times { start: 1_000_000, end: 2_000_000, interval_ms: 10_000, default_subquery_step_ms: 60_000 };
        let reach = plan(&expr, &times).expect(text).reach(300_000)?;
        Some((reach.before_ms / 1000, reach.after_ms / 1000))
    }

    #[test]
    fn the_farthest_selector_counts() {
        assert_eq!(reach("a"), Some((300, 0)));
        assert_eq!(reach("a offset 100s"), Some((400, -100)));
        assert_eq!(reach("a offset -100s"), Some((200, 100)));
        assert_eq!(reach("rate(a[1m])"), Some((60, 0)));
        assert_eq!(reach("rate(a[1m] anchored)"), Some((360, 0)));
        assert_eq!(reach("rate(a[1m] smoothed)"), Some((360, 300)));
        assert_eq!(reach("rate(a[1m]) + on() b offset -10s"), Some((290, 10)));
        assert_eq!(reach("max_over_time(rate(a[1m] offset 7s)[500s:100s] offset 30s)"), Some((597, -37)));
        assert_eq!(reach("topk(3, a) + scalar(b offset 1h)"), Some((3900, 0)));
        assert_eq!(reach("-sum by (x) (a)"), Some((300, 0)));
        assert!(reach("vector(time())").is_some_and(|(_, after)| after < 0));
    }

    #[test]
    fn what_depends_on_other_steps_has_none() {
        for text in [
            "a @ 5",
            "a @ end()",
            "max_over_time(a[5m:1m] @ start())",
            "info(a)",
            "sum(a + b @ 3)",
            "topk(scalar(b), a)",
        ] {
            assert_eq!(reach(text), None, "{text}");
        }
        for text in ["{job=\"x\"}", "rate({__name__=~\"a|b\"}[5m])", "a + {__name__!=\"\"}"] {
            assert_eq!(reach(text), None, "{text}");
        }
    }
}
