//! Parts of a plan that occur more than once at the same steps: they need to be evaluated only once.
//!
//! Every node gets a number; nodes that say the same, wherever they stand, get the same. Then the tree is walked from
//! the top, and a part that was met before is not looked into again: what is below it is evaluated with it.

use super::{Plan, PlanKind, Selector};
use crate::parser::{Function, Span, ValueType};
use std::collections::{HashMap, HashSet};
use std::fmt::Write;

/// Plans with more nodes are not searched.
const MAX_NODES: usize = 10_000;

/// Where a part occurs.
#[derive(Debug)]
pub(crate) struct Occurrence {
    /// The same for all occurrences of a part.
    pub(crate) part: usize,
    /// The places of its nodes, in the same order at each occurrence.
    pub(crate) spans: Vec<Span>,
}

/// The parts that occur more than once, by the address of their nodes.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    occurrences: HashMap<usize, Occurrence>,
    /// By part: how often it occurs.
    pub(crate) counts: Vec<usize>,
}

impl Repeats {
    /// Looks for parts that read samples. The plan must not move from here on.
    pub(crate) fn find(plan: &Plan) -> Self {
        let mut repeats = Self::default();
        if !reads_twice(plan) {
            return repeats;
        }
        let mut numbers = Numbers::default();
        numbers.number(plan);
        for places in numbers.equal_parts(plan) {
            let part = repeats.counts.len();
            repeats.counts.push(places.len());
            for plan in places {
                let occurrence = Occurrence { part, spans: spans(plan) };
                repeats.occurrences.insert(address(plan), occurrence);
            }
        }
        repeats
    }

    /// The occurrence that a node is.
    pub(crate) fn get(&self, plan: &Plan) -> Option<&Occurrence> {
        self.occurrences.get(&address(plan))
    }
}

fn address(plan: &Plan) -> usize {
    std::ptr::from_ref(plan).addr()
}

/// Whether two selectors look for the same series: without them nothing repeats, which is soon told.
fn reads_twice(plan: &Plan) -> bool {
    let (mut n_nodes, mut selectors) = (0, Vec::new());
    plan.walk(&mut |part| {
        n_nodes += 1;
        selectors.extend(part.own_selector());
    });
    if selectors.len() < 2 || n_nodes > MAX_NODES {
        return false;
    }
    let mut seen = HashSet::new();
    !selectors.into_iter().all(|selector| {
        let say = selector.matchers.iter().map(|matcher| (&matcher.name, matcher.op, matcher.written()));
        seen.insert(say.collect::<Vec<_>>())
    })
}

/// The places of a part's nodes.
fn spans(plan: &Plan) -> Vec<Span> {
    let mut spans = Vec::new();
    plan.walk(&mut |part| {
        spans.push(part.span);
        spans.extend(part.own_selector().map(|selector| selector.span));
    });
    spans
}

/// Numbers of nodes, and of what surrounds them.
#[derive(Default)]
struct Numbers {
    by_text: HashMap<String, u32>,
    /// By address: the number, and whether samples are read below.
    by_node: HashMap<usize, (u32, bool)>,
}

impl Numbers {
    fn intern(&mut self, text: String) -> u32 {
        let next = self.by_text.len() as u32;
        *self.by_text.entry(text).or_insert(next)
    }

    /// Numbers a node and all below it.
    fn number(&mut self, plan: &Plan) {
        let mut parents_first = Vec::new();
        plan.walk(&mut |part| parents_first.push(part));
        for part in parents_first.into_iter().rev() {
            let mut text = own_text(part);
            let mut reads = part.own_selector().is_some();
            for child in part.children() {
                let (number, child_reads) = self.by_node[&address(child)];
                reads |= child_reads;
                write!(text, " {number}").expect("a string takes all");
            }
            let number = (self.intern(text), reads);
            self.by_node.insert(address(part), number);
        }
    }

    /// Vectors that say the same and are evaluated at the same steps, two or more each, in the order of evaluation.
    fn equal_parts<'p>(&mut self, plan: &'p Plan) -> Vec<Vec<&'p Plan>> {
        let mut found: HashMap<(u32, u32), usize> = HashMap::new();
        let mut parts: Vec<Vec<&Plan>> = Vec::new();
        // With the number of what surrounds it: the same at equal steps.
        let mut pending = vec![(plan, self.intern("query".to_owned()))];
        while let Some((part, around)) = pending.pop() {
            let (number, reads) = self.by_node[&address(part)];
            if reads && may_be_shared(part) {
                let at = *found.entry((number, around)).or_insert(parts.len());
                if at < parts.len() {
                    parts[at].push(part);
                    continue;
                }
                parts.push(vec![part]);
            }
            let around = match &part.kind {
                PlanKind::Subquery { range_ms, step_ms, time, .. } => {
                    self.intern(format!("in {around} subquery {range_ms} {step_ms} {time:?}"))
                }
                PlanKind::Invariant(_) => self.intern(format!("in {around} once")),
                _ => around,
            };
            let evaluated = part.children().into_iter().filter(|child| is_evaluated(part, child));
            let evaluated: Vec<&Plan> = evaluated.collect();
            pending.extend(evaluated.into_iter().rev().map(|child| (child, around)));
        }
        parts.retain(|places| places.len() > 1);
        parts
    }
}

fn may_be_shared(part: &Plan) -> bool {
    let kind = matches!(
        part.kind,
        PlanKind::Select(_)
            | PlanKind::Call { .. }
            | PlanKind::Aggregate { .. }
            | PlanKind::Binary { .. }
            | PlanKind::Negate(_)
    );
    kind && part.value_type == ValueType::Vector
}

/// Whether `child` is a vector of its own below `part`: some functions look at their selector in another way.
fn is_evaluated(part: &Plan, child: &Plan) -> bool {
    match &part.kind {
        PlanKind::Call { function: Function::Timestamp | Function::StartTimestamp, .. } => {
            !matches!(child.kind, PlanKind::Select(_))
        }
        PlanKind::Call { function: Function::Info, args } => std::ptr::eq(child, &raw const args[0]),
        _ => true,
    }
}

/// Everything a node says itself, but where it stands.
fn own_text(plan: &Plan) -> String {
    match &plan.kind {
        PlanKind::Number(value) => format!("number {:x}", value.to_bits()),
        PlanKind::Text(text) => format!("text {text:?}"),
        PlanKind::Select(selector) => format!("select {}", selector_text(selector)),
        PlanKind::Range { selector, range_ms } => format!("range {range_ms} {}", selector_text(selector)),
        PlanKind::Subquery { range_ms, step_ms, time, .. } => {
            format!("subquery {range_ms} {step_ms} {time:?}")
        }
        PlanKind::Call { function, .. } => format!("call {}", function.name()),
        PlanKind::Aggregate { op, grouping, without, param, .. } => {
            format!("aggregate {} {grouping:?} {without} {}", op.as_str(), param.is_some())
        }
        PlanKind::Binary { op, matching, return_bool, .. } => {
            format!("binary {} {return_bool} {matching:?}", op.as_str())
        }
        PlanKind::Negate(_) => "negate".to_owned(),
        PlanKind::Plus(_) => "plus".to_owned(),
        PlanKind::Invariant(_) => "once".to_owned(),
    }
}

fn selector_text(selector: &Selector) -> String {
    let Selector { matchers, time, at, extension, span: _, histogram_stats, presence, labels } = selector;
    let mut text = format!("{time:?} {at:?} {extension:?} {histogram_stats} {presence} {labels:?}");
    for matcher in matchers {
        let value = matcher.written();
        write!(text, " {:?} {:?} {value:?}", matcher.name, matcher.op).expect("a string takes all");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Times, plan};

    /// The texts of the parts that repeat, each with how often.
    fn repeated(text: &str) -> Vec<(String, usize)> {
        let times = Times { start: 0, end: 60_000, interval_ms: 15_000, default_subquery_step_ms: 60_000 };
        let expr = crate::parser::parse_expr(text, crate::parser::ParserOptions::ALL).expect("it parses");
        let plan = plan(&expr, &times).expect("it can be planned");
        let repeats = Repeats::find(&plan);
        let mut parts: Vec<(String, usize)> = (0..repeats.counts.len())
            .map(|part| {
                let first = repeats.occurrences.values().filter(|occurrence| occurrence.part == part);
                let span = first.map(|occurrence| occurrence.spans[0]).min_by_key(|span| span.start);
                let span = span.expect("it occurs");
                (text[span.start as usize..span.end as usize].to_owned(), repeats.counts[part])
            })
            .collect();
        parts.sort();
        parts
    }

    #[test]
    fn the_largest_parts_are_found_and_what_differs_is_not() {
        let check = |text: &str, expected: &[(&str, usize)]| {
            let expected: Vec<_> = expected.iter().map(|(text, n)| ((*text).to_owned(), *n)).collect();
            assert_eq!(repeated(text), expected, "{text}");
        };
        check("rate(a[5m]) / rate(a[5m])", &[("rate(a[5m])", 2)]);
        check(
            "sum(rate(a[5m])) / (sum((rate(a[5m]))) + rate(a[5m]))",
            &[("rate(a[5m])", 2), ("sum(rate(a[5m]))", 2)],
        );
        check("a > 1 and a < 2 or a", &[("a", 3)]);
        check("rate(a[5m]) / rate(a[6m]) + a offset 1m + a + a{x=\"y\"} + a{x!=\"y\"}", &[]);
        check("a * on (x) b + a * on (y) b", &[("a", 2), ("b", 2)]);
        check("1 + 1 + time() + time()", &[]);
        check("topk(1, a) + topk(2, a) + topk(scalar(a), a)", &[("a", 4)]);
        check("a + -a + -a", &[("-a", 2), ("a", 2)]);
        // At other steps, or read in another way.
        check("max_over_time(a[5m:1m]) + max_over_time(a[6m:1m]) + a + a @ 5", &[]);
        check("max_over_time((a + b)[5m:1m]) + min_over_time((a + b)[5m:1m])", &[("a + b", 2)]);
        check("count(a) / sum(a) + timestamp(a)", &[]);
        check("a @ 5 + sum(a @ 5)", &[("a @ 5", 2)]);
        check("info(b, {__name__=\"a\"}) + a + b", &[("b", 2)]);
    }

    #[test]
    fn places_are_told_in_the_same_order() {
        let text = "sum((rate(a[5m]))) + ((sum(rate(a[5m]))))";
        let times = Times { start: 0, end: 0, interval_ms: 0, default_subquery_step_ms: 60_000 };
        let expr = crate::parser::parse_expr(text, crate::parser::ParserOptions::ALL).expect("it parses");
        let plan = plan(&expr, &times).expect("it can be planned");
        let repeats = Repeats::find(&plan);
        let mut places: Vec<Vec<&str>> = Vec::new();
        for occurrence in repeats.occurrences.values() {
            let texts = occurrence.spans.iter().map(|span| &text[span.start as usize..span.end as usize]);
            places.push(texts.map(|text| text.trim_matches(['(', ')'])).collect());
        }
        assert_eq!(places.len(), 2);
        for texts in places {
            let expected = ["sum", "rate(a[5m]", "a[5m]", "a"];
            assert!(
                texts.iter().zip(expected).all(|(text, expected)| text.starts_with(expected)),
                "{texts:?}"
            );
        }
    }
}
