//! Printing a plan, a line a node, what is below a node indented.

use super::{DataTime, Plan, PlanKind, Selector};
use crate::functions::Extension;
use chronolith_model::duration::format_duration;
use std::fmt;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pending = vec![(self, 0)];
        while let Some((plan, depth)) = pending.pop() {
            writeln!(f, "{:2$}{}", "", plan.head(), depth * 2)?;
            pending.extend(plan.children().into_iter().rev().map(|child| (child, depth + 1)));
        }
        Ok(())
    }
}

impl Plan {
    /// The node itself, in a line.
    pub(crate) fn head(&self) -> String {
        match &self.kind {
            PlanKind::Number(value) => format!("number {value}"),
            PlanKind::Text(text) => format!("string {:?}", String::from_utf8_lossy(text)),
            PlanKind::Select(selector) => format!("select {selector}"),
            PlanKind::Range { selector, range_ms } => {
                format!("range {} {selector}", format_duration(*range_ms))
            }
            PlanKind::Subquery { range_ms, step_ms, time, .. } => {
                format!("subquery {} every {}{time}", format_duration(*range_ms), format_duration(*step_ms))
            }
            PlanKind::Call { function, .. } => format!("{}()", function.name()),
            PlanKind::Aggregate { op, grouping, without, .. } => {
                let how = if *without { "without" } else { "by" };
                format!("{} {how} ({})", op.as_str(), grouping.join(", "))
            }
            PlanKind::Binary { op, return_bool, .. } => {
                format!("{}{}", op.as_str(), if *return_bool { " bool" } else { "" })
            }
            PlanKind::Negate(_) => "negate".to_owned(),
            PlanKind::Plus(_) => "plus".to_owned(),
            PlanKind::Invariant(_) => "once".to_owned(),
        }
    }

    /// The nodes below, in the order of evaluation.
    pub(crate) fn children(&self) -> Vec<&Self> {
        match &self.kind {
            PlanKind::Number(_) | PlanKind::Text(_) | PlanKind::Select(_) | PlanKind::Range { .. } => vec![],
            PlanKind::Call { args, .. } => args.iter().collect(),
            PlanKind::Aggregate { inner, param, .. } => {
                param.iter().map(|param| &**param).chain([&**inner]).collect()
            }
            PlanKind::Binary { lhs, rhs, .. } => vec![lhs, rhs],
            PlanKind::Subquery { inner, .. }
            | PlanKind::Negate(inner)
            | PlanKind::Plus(inner)
            | PlanKind::Invariant(inner) => vec![inner],
        }
    }

    /// Calls `visit` with this node and all below it, parents first. Uses no recursion.
    pub(crate) fn walk<'p>(&'p self, visit: &mut dyn FnMut(&'p Self)) {
        let mut pending = vec![self];
        while let Some(plan) = pending.pop() {
            visit(plan);
            pending.extend(plan.children().into_iter().rev());
        }
    }

    /// The selector, if this node itself is one.
    pub(crate) fn own_selector(&self) -> Option<&Selector> {
        match &self.kind {
            PlanKind::Select(selector) | PlanKind::Range { selector, .. } => Some(selector),
            _ => None,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, matcher) in self.matchers.iter().enumerate() {
            write!(f, "{}{matcher}", if i == 0 { "" } else { ", " })?;
        }
        write!(f, "}}{}", self.time)?;
        match self.extension {
            Extension::None => {}
            Extension::Anchored => f.write_str(" anchored")?,
            Extension::Smoothed => f.write_str(" smoothed")?,
        }
        if self.histogram_stats {
            f.write_str(" histogram stats")?;
        }
        if self.presence { f.write_str(" presence") } else { Ok(()) }
    }
}

impl fmt::Display for DataTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step { offset_ms: 0 } => Ok(()),
            Self::Step { offset_ms } => write!(f, " offset {}", format_duration(*offset_ms)),
            Self::Fixed(at) => write!(f, " at {}", *at as f64 / 1000.0),
        }
    }
}
