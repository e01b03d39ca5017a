//! Printing a plan, a line a node, what is below a node indented.

use super::{DataTime, Plan, PlanKind, Selector};
use crate::functions::Extension;
use std::fmt;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pending = vec![(self, 0)];
        while let Some((plan, depth)) = pending.pop() {
            write!(f, "{:1$}", "", depth * 2)?;
            let children: Vec<&Self> = match &plan.kind {
                PlanKind::Number(value) => {
                    writeln!(f, "number {value}")?;
                    vec![]
                }
                PlanKind::Text(text) => {
                    writeln!(f, "string {:?}", String::from_utf8_lossy(text))?;
                    vec![]
                }
                PlanKind::Select(selector) => {
                    writeln!(f, "select {selector}")?;
                    vec![]
                }
                PlanKind::Range { selector, range_ms } => {
                    writeln!(f, "range {range_ms}ms {selector}")?;
                    vec![]
                }
                PlanKind::Subquery { inner, range_ms, step_ms, time } => {
                    writeln!(f, "subquery {range_ms}ms every {step_ms}ms{time}")?;
                    vec![inner]
                }
                PlanKind::Call { function, args } => {
                    writeln!(f, "{}()", function.name())?;
                    args.iter().collect()
                }
                PlanKind::Aggregate { op, inner, param, grouping, without } => {
                    let by = if *without { "without" } else { "by" };
                    writeln!(f, "{} {by} {grouping:?}", op.as_str())?;
                    param.iter().map(|param| &**param).chain([&**inner]).collect()
                }
                PlanKind::Binary { op, lhs, rhs, return_bool, .. } => {
                    writeln!(f, "{}{}", op.as_str(), if *return_bool { " bool" } else { "" })?;
                    vec![lhs, rhs]
                }
                PlanKind::Negate(inner) => {
                    writeln!(f, "negate")?;
                    vec![inner]
                }
                PlanKind::Plus(inner) => {
                    writeln!(f, "plus")?;
                    vec![inner]
                }
                PlanKind::Invariant(inner) => {
                    writeln!(f, "once")?;
                    vec![inner]
                }
            };
            pending.extend(children.into_iter().rev().map(|child| (child, depth + 1)));
        }
        Ok(())
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
            Self::Step { offset_ms } => write!(f, " offset {offset_ms}ms"),
            Self::Fixed(at) => write!(f, " at {at}ms"),
        }
    }
}
