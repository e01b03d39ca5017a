//! Well-typed expressions at random, as text.

use super::{Mix, Rng, World};
use crate::parser::ast::ValueType;
use crate::parser::signatures::SIGNATURES;
use crate::parser::{Function, Signature};

/// Writes one query over one world.
pub(super) struct Writer<'w> {
    pub(super) rng: &'w mut Rng,
    pub(super) mix: Mix,
    pub(super) world: &'w World,
    /// Vectors that stand in the query by now, some of which come back.
    pub(super) written: Vec<String>,
}

/// Longer vectors do not come back: queries would grow by squares.
const LONGEST_TO_COME_BACK: usize = 300;

/// Aggregations without a parameter, then those with one.
const PLAIN: [&str; 8] = ["sum", "avg", "min", "max", "count", "group", "stddev", "stdvar"];
const WITH_PARAMETER: [&str; 6] = ["topk", "bottomk", "quantile", "count_values", "limitk", "limit_ratio"];

const ARITHMETIC: [&str; 7] = ["+", "-", "*", "/", "%", "^", "atan2"];
const COMPARISONS: [&str; 6] = ["==", "!=", ">", "<", ">=", "<="];
const SETS: [&str; 3] = ["and", "or", "unless"];
const TRIMS: [&str; 2] = ["</", ">/"];

const NUMBERS: [&str; 26] = [
    "0", "1", "2", "3", "5", "10", "100", "0.5", "0.9", "0.99", "1.5", "-1", "-0.5", "0.1", "1e3", "1e-9",
    "NaN", "Inf", "-Inf", "-0", "5m", "1e300", "-3", "4", "0x1F", "7",
];

/// Labels of the world that groupings and matchings mention, and some that are not there.
const LABELS: [&str; 10] =
    ["job", "instance", "env", "code", "le", "version", "__name__", "Zone", "nothing", "__type__"];

impl Writer<'_> {
    /// A whole query.
    pub(super) fn query(&mut self, range: bool) -> String {
        let depth = match self.rng.below(20) {
            0..3 => 0,
            3..9 => 1,
            9..15 => 2,
            15..19 => 3,
            _ => 4,
        };
        match self.rng.below(100) {
            0..6 => self.scalar(depth + 1),
            6 if !range => self.string(),
            7..11 if !range => self.matrix(depth, None),
            _ => self.vector(depth),
        }
    }

    fn vector(&mut self, depth: u32) -> String {
        if !self.written.is_empty() && self.rng.chance(20) {
            let at = self.rng.below(self.written.len());
            let again = self.written[at].clone();
            return if self.rng.chance(20) { format!("( {again} )") } else { again };
        }
        let text = self.new_vector(depth);
        if text.len() <= LONGEST_TO_COME_BACK {
            self.written.push(text.clone());
        }
        text
    }

    fn new_vector(&mut self, depth: u32) -> String {
        if depth == 0 {
            return self.selector();
        }
        match self.rng.below(100) {
            0..12 => self.selector(),
            12..34 => self.aggregation(depth - 1),
            34..66 => self.call(depth - 1),
            66..92 => self.binary(depth - 1),
            92..94 => {
                let sign = self.rng.pick(&["-", "-", "+"]);
                let operand = self.operand(depth - 1);
                format!("{sign}{operand}")
            }
            94..96 => format!("({})", self.vector(depth - 1)),
            96 => format!("vector({})", self.scalar(depth - 1)),
            _ => self.histogram_pipeline(depth - 1),
        }
    }

    /// A vector that may stand beside an operator.
    fn operand(&mut self, depth: u32) -> String {
        let text = self.vector(depth);
        let bare = text.ends_with(')') && !text.contains(' ')
            || !text.contains([' ', '+', '-', '*', '/', '%', '^', '<', '>', '=']);
        if bare || self.rng.chance(5) { text } else { format!("({text})") }
    }

    fn scalar(&mut self, depth: u32) -> String {
        if depth == 0 || self.rng.chance(60) {
            return match self.rng.below(20) {
                0 => "time()".to_owned(),
                1 => "pi()".to_owned(),
                2 if self.mix.experimental => {
                    self.rng.pick(&["step()", "range()", "start()", "end()"]).to_owned()
                }
                _ => self.rng.pick(&NUMBERS).to_owned(),
            };
        }
        match self.rng.below(10) {
            0..4 => format!("scalar({})", self.vector(depth - 1)),
            4..6 => {
                let (lhs, rhs) = (self.scalar(depth - 1), self.scalar(depth - 1));
                let op = self.rng.pick(&ARITHMETIC);
                format!("({lhs} {op} {rhs})")
            }
            6 => {
                let (lhs, rhs) = (self.scalar(depth - 1), self.scalar(depth - 1));
                let op = self.rng.pick(&COMPARISONS);
                format!("({lhs} {op} bool {rhs})")
            }
            7 => format!("-({})", self.scalar(depth - 1)),
            8 if self.mix.experimental => {
                let (lhs, rhs) = (self.scalar(depth - 1), self.scalar(depth - 1));
                format!("{}({lhs}, {rhs})", self.rng.pick(&["min_of", "max_of"]))
            }
            _ => format!("({})", self.scalar(depth - 1)),
        }
    }

    fn string(&mut self) -> String {
        self.rng.pick(&["\"text\"", "'\\xff'", "`raw\\`", "\"\"", "(\"ü\")"]).to_owned()
    }

    /// An instant selector with its modifiers.
    fn selector(&mut self) -> String {
        let text = self.matched();
        let modifiers = self.modifiers(None);
        format!("{text}{modifiers}")
    }

    /// Name and matchers; nearly always of a metric that is there.
    fn matched(&mut self) -> String {
        let series = self.rng.below(self.world.series.len());
        let labels = &self.world.series[series].0;
        let name = labels.metric_name();
        let mut matchers: Vec<String> = Vec::new();
        let plain = name != "my.metric" && !self.rng.chance(6);
        if !plain {
            matchers.push(match self.rng.below(8) {
                0 => "__name__=~\"lat.*|temp\"".to_owned(),
                1 => "__name__=~\"(jobs|http)_total\"".to_owned(),
                2 => "__name__=~\"nh.*\"".to_owned(),
                3 => "job=\"a\"".to_owned(),
                4 => format!("__name__!=\"{name}\",instance=\"0\""),
                5 if name != "my.metric" => format!("__name__=\"{name}\""),
                6 => "__name__=~\".+_total\"".to_owned(),
                _ => format!("\"{name}\""),
            });
        }
        if self.rng.chance(30) {
            let (label, value) = labels
                .iter()
                .nth(self.rng.below(labels.len()))
                .filter(|(label, value)| *label != "__name__" && *label != "a.b" && *value != "\"q\"")
                .unwrap_or(("job", "a"));
            matchers.push(match self.rng.below(10) {
                0..5 => format!("{label}=\"{value}\""),
                5 => format!("{label}!=\"{value}\""),
                6 => format!("{label}=~\".*\""),
                7 => format!("{label}!~\"[a-c]|x+\""),
                8 => "env=\"\"".to_owned(),
                _ => "instance=~\"0|1\"".to_owned(),
            });
        }
        match (plain, matchers.is_empty()) {
            (true, true) => name.to_owned(),
            (true, false) => format!("{name}{{{}}}", matchers.join(",")),
            (false, _) => format!("{{{}}}", matchers.join(",")),
        }
    }

    /// ` offset`, ` @` and extended modifiers; the latter for a call of `function`, if there is one.
    fn modifiers(&mut self, function: Option<Function>) -> String {
        let mut text = String::new();
        if self.mix.experimental {
            let usual = match function {
                Some(Function::Rate | Function::Increase | Function::Delta) => 25,
                Some(Function::Resets | Function::Changes) => 15,
                Some(_) => 1,
                None => 3,
            };
            if self.rng.chance(usual) {
                text.push_str(if self.rng.chance(50) { " anchored" } else { " smoothed" });
                if function.is_none() {
                    text = " smoothed".to_owned();
                }
            }
        }
        if self.rng.chance(12) {
            let sign = if self.rng.chance(30) { "-" } else { "" };
            let duration = self.duration();
            text.push_str(&format!(" offset {sign}{duration}"));
        }
        if self.rng.chance(8) {
            text.push_str(&self.at());
        }
        text
    }

    fn at(&mut self) -> String {
        match self.rng.below(8) {
            0 | 1 => " @ start()".to_owned(),
            2 | 3 => " @ end()".to_owned(),
            4 => " @ -10".to_owned(),
            _ => {
                let ms = self.rng.below(self.world.last_ms as usize + 1) as i64;
                let ms = if self.mix.off_grid { ms / 1000 * 1000 } else { ms };
                format!(" @ {}", ms as f64 / 1000.0)
            }
        }
    }

    /// A positive duration that fits the world.
    fn duration(&mut self) -> String {
        if self.mix.experimental && self.rng.chance(8) {
            let ms = self.millis();
            return match self.rng.below(6) {
                0 => format!("({} + {})", Ms(ms), Ms(ms / 2 + 1)),
                1 => format!("({} * 2)", Ms(ms)),
                2 => format!("min_of({}, step() + 1)", Ms(ms)),
                3 => format!("max_of({}, step())", Ms(ms)),
                4 => format!("(range() / 2 + {})", Ms(ms)),
                _ => format!("({} - {})", Ms(ms), Ms(ms / 3 + 1)),
            };
        }
        Ms(self.millis()).to_string()
    }

    fn millis(&mut self) -> i64 {
        let interval = self.world.interval_ms;
        let ms = match self.rng.below(12) {
            0 => interval,
            1 => 2 * interval,
            2..5 => 3 * interval,
            5..7 => 5 * interval,
            7 => interval * 7 / 2,
            8 => 10 * interval,
            9 => interval / 2,
            10 => interval + 1,
            _ => self.world.last_ms,
        };
        let ms = if self.mix.off_grid { ms / 1000 * 1000 } else { ms };
        ms.max(if self.mix.off_grid { 1000 } else { 1 })
    }

    /// A range vector, as the argument of `function`.
    fn matrix(&mut self, depth: u32, function: Option<Function>) -> String {
        if depth > 0 && self.rng.chance(25) {
            let inner = self.operand(depth - 1);
            let range = self.duration();
            let step = match self.rng.below(10) {
                0 | 1 => String::new(),
                2 => Ms(self.world.interval_ms).to_string(),
                _ => Ms((self.millis() / 3).max(if self.mix.off_grid { 1000 } else { 1 })).to_string(),
            };
            let step = if self.mix.off_grid && !step.is_empty() {
                Ms((self.world.interval_ms / 2000 * 1000).max(1000)).to_string()
            } else {
                step
            };
            // The default step is a minute: too fine for long ranges.
            let step = match step.as_str() {
                "" if self.world.interval_ms > 3_600_000 => "1d".to_owned(),
                _ => step,
            };
            let mut modifiers = String::new();
            if self.rng.chance(15) {
                let sign = if self.rng.chance(30) { "-" } else { "" };
                modifiers = format!(" offset {sign}{}", self.duration());
            }
            if self.rng.chance(10) {
                modifiers.push_str(&self.at());
            }
            return format!("{inner}[{range}:{step}]{modifiers}");
        }
        let selector = self.matched();
        let range = self.duration();
        let modifiers = self.modifiers(Some(function.unwrap_or(Function::LastOverTime)));
        let text = format!("{selector}[{range}]{modifiers}");
        if self.rng.chance(2) { format!("({text})") } else { text }
    }

    /// `by` or `without`, or nothing.
    fn grouping(&mut self) -> String {
        match self.rng.below(10) {
            0..3 => String::new(),
            3..8 => format!(" by ({})", self.label_list()),
            _ => format!(" without ({})", self.label_list()),
        }
    }

    fn label_list(&mut self) -> String {
        let n_labels = self.rng.pick(&[0, 1, 1, 1, 2, 2, 3]);
        let labels: Vec<&str> = (0..n_labels)
            .map(|_| if self.rng.chance(60) { self.rng.pick(&LABELS[..2]) } else { self.rng.pick(&LABELS) })
            .collect();
        labels.join(", ")
    }

    fn aggregation(&mut self, depth: u32) -> String {
        let grouping = self.grouping();
        if self.rng.chance(65) {
            let op = self.rng.pick(&PLAIN);
            return format!("{op}{grouping} ({})", self.vector(depth));
        }
        let n_stable = if self.mix.experimental { WITH_PARAMETER.len() } else { 4 };
        let op = WITH_PARAMETER[self.rng.below(n_stable)];
        let parameter = match op {
            "count_values" => self.rng.pick(&["\"v\"", "\"job\"", "\"__name__\"", "\"a.b\""]).to_owned(),
            _ if self.rng.chance(12) => self.scalar(1),
            "quantile" => self.rng.pick(&["0.5", "0.9", "0", "1", "0.25", "2", "-1"]).to_owned(),
            "limit_ratio" => self.rng.pick(&["0.5", "-0.5", "0.3", "1", "-1", "0", "1.5"]).to_owned(),
            _ => self.rng.pick(&["1", "2", "3", "1", "5", "0", "2.9"]).to_owned(),
        };
        format!("{op}{grouping} ({parameter}, {})", self.vector(depth))
    }

    fn binary(&mut self, depth: u32) -> String {
        match self.rng.below(20) {
            0..4 => {
                let (vector, scalar) = (self.operand(depth), self.scalar(1));
                let op = self.scalar_operator();
                match self.rng.chance(65) {
                    true => format!("{vector} {op} {scalar}"),
                    false => format!("{scalar} {op} {vector}"),
                }
            }
            4..8 => {
                let op = self.rng.pick(&SETS);
                let (lhs, rhs) = self.pair(depth);
                let matching = if self.rng.chance(60) { self.matching() } else { String::new() };
                format!("{lhs} {op}{matching} {rhs}")
            }
            8..12 => self.grouped_pair(depth),
            _ => {
                let op = self.operator();
                let (lhs, rhs) = self.pair(depth);
                let matching = match self.rng.below(10) {
                    0..3 => String::new(),
                    3..5 => " on (job, instance)".to_owned(),
                    5 => " ignoring (env, code, version, build)".to_owned(),
                    6..8 => format!("{} {}", self.matching(), self.group()),
                    _ => self.matching(),
                };
                let fill = self.fill();
                let matching = if matching.is_empty() && !fill.is_empty() {
                    " on (job, instance)".to_owned()
                } else {
                    matching
                };
                format!("{lhs} {op}{matching}{fill} {rhs}")
            }
        }
    }

    fn scalar_operator(&mut self) -> String {
        match self.rng.below(10) {
            0..5 => self.rng.pick(&ARITHMETIC).to_owned(),
            5..8 => self.rng.pick(&COMPARISONS).to_owned(),
            8 if self.mix.histograms => self.rng.pick(&TRIMS).to_owned(),
            _ => format!("{} bool", self.rng.pick(&COMPARISONS)),
        }
    }

    fn operator(&mut self) -> String {
        match self.rng.below(20) {
            0 if self.mix.histograms => self.rng.pick(&TRIMS).to_owned(),
            1..12 => self.rng.pick(&ARITHMETIC).to_owned(),
            12..17 => self.rng.pick(&COMPARISONS).to_owned(),
            _ => format!("{} bool", self.rng.pick(&COMPARISONS)),
        }
    }

    fn matching(&mut self) -> String {
        match self.rng.below(10) {
            0..4 => " on (job, instance)".to_owned(),
            4..6 => format!(" on ({})", self.label_list()),
            6..8 => " ignoring (env, code, version)".to_owned(),
            _ => format!(" ignoring ({})", self.label_list()),
        }
    }

    fn group(&mut self) -> String {
        let side = self.rng.pick(&["group_left", "group_right"]);
        match self.rng.below(4) {
            0 => format!("{side} ()"),
            1 => format!("{side} ({})", self.rng.pick(&["version", "env", "code", "nothing", "__name__"])),
            _ => side.to_owned(),
        }
    }

    fn fill(&mut self) -> String {
        if !self.mix.experimental || !self.rng.chance(15) {
            return String::new();
        }
        let value = self.rng.pick(&["0", "1", "-2", "NaN", "0.5"]);
        match self.rng.below(4) {
            0 | 1 => format!(" fill ({value})"),
            2 => format!(" fill_left ({value})"),
            _ => format!(" fill_right ({value}) fill_left (1)"),
        }
    }

    /// Two operands that are likely to find each other.
    fn pair(&mut self, depth: u32) -> (String, String) {
        if self.rng.chance(25) {
            let lhs = self.operand(depth);
            return match self.rng.chance(50) {
                true => (lhs.clone(), lhs),
                false => {
                    let bound = self.rng.pick(&["0", "2", "5", "10"]);
                    (format!("({lhs} > {bound})"), lhs)
                }
            };
        }
        (self.operand(depth), self.operand(depth.min(1)))
    }

    /// Two sides that are aggregated to what they are matched on, or one to what the other has several of.
    fn grouped_pair(&mut self, depth: u32) -> String {
        let labels = self.rng.pick(&["job", "instance", "job, instance"]);
        let op = self.operator();
        let fold = self.rng.pick(&PLAIN);
        let (many, one) = (self.operand(depth), self.vector(depth.min(1)));
        let one = format!("{fold} by ({labels}) ({one})");
        let fill = self.fill();
        match self.rng.below(4) {
            0 => format!("{many} {op} on ({labels}) group_left{fill} {one}"),
            1 => format!("{one} {op} on ({labels}) group_right{fill} {many}"),
            2 => format!("sum by ({labels}) ({many}) {op}{fill} {one}"),
            _ => format!("{one} {op} on ({labels}){fill} max by ({labels}) ({many})"),
        }
    }

    /// What is usually done with buckets and native histograms.
    fn histogram_pipeline(&mut self, depth: u32) -> String {
        let mut input = self.vector(depth);
        let names = ["lat_bucket", "nh", "nhcb", "wild", "nhg"];
        let name = self.rng.pick(if self.mix.histograms { &names[..] } else { &names[..1] });
        if self.rng.chance(80) {
            let range = self.duration();
            input = match self.rng.below(5) {
                0 => name.to_owned(),
                1 => format!("rate({name}[{range}])"),
                2 => format!("sum by (job, le) (rate({name}[{range}]))"),
                3 => format!("increase({name}[{range}])"),
                _ => format!("sum by (le) ({name})"),
            };
        }
        let quantile = match self.rng.chance(85) {
            true => self.rng.pick(&["0.5", "0.9", "0", "1", "0.99"]).to_owned(),
            false => self.scalar(1),
        };
        match self.rng.below(if self.mix.experimental { 10 } else { 5 }) {
            0..5 => format!("histogram_quantile({quantile}, {input})"),
            5..7 => {
                let upper = self.scalar(1);
                format!("histogram_fraction({}, {upper}, {input})", self.rng.pick(&["0", "-Inf", "0.2", "2"]))
            }
            7 => format!("histogram_quantiles({input}, \"q\", {quantile}, 0.25)"),
            8 => format!("histogram_avg({input}) + histogram_stddev({input})"),
            _ => format!("histogram_count({input})"),
        }
    }

    fn call(&mut self, depth: u32) -> String {
        let signature = loop {
            let candidate = if self.rng.chance(25) {
                // What people ask for most often.
                self.rng
                    .pick(&[Function::Rate, Function::Increase, Function::AvgOverTime, Function::Delta])
                    .signature()
            } else {
                &SIGNATURES[self.rng.below(SIGNATURES.len())]
            };
            let allowed = self.mix.experimental || !candidate.experimental;
            let allowed = allowed && (self.mix.histograms || !is_of_histograms(candidate.function));
            if allowed && candidate.return_type == ValueType::Vector {
                break candidate;
            }
        };
        match signature.function {
            Function::LabelReplace => {
                let vector = self.vector(depth);
                let target = self.rng.pick(&["to", "job", "__name__", "env", "a.b", "le"]);
                let (source, pattern) = self.rng.pick(&[
                    ("instance", "(.*)"),
                    ("job", "(a|b)"),
                    ("__name__", "(.+)_(.*)"),
                    ("nothing", "(.*)"),
                    ("instance", "(?P<n>[01])"),
                    ("job", "x"),
                ]);
                let replacement = self.rng.pick(&["$1", "x$1", "${1}y", "$n", "", "$2", "fixed", "$1x"]);
                format!(
                    "label_replace({vector}, \"{target}\", \"{replacement}\", \"{source}\", \"{pattern}\")"
                )
            }
            Function::LabelJoin => {
                let vector = self.vector(depth);
                let target = self.rng.pick(&["to", "job", "__name__", "env"]);
                let sources = self.rng.pick(&[
                    "",
                    ", \"job\"",
                    ", \"job\", \"instance\"",
                    ", \"nothing\", \"__name__\"",
                ]);
                let separator = self.rng.pick(&["-", "", "/"]);
                format!("label_join({vector}, \"{target}\", \"{separator}\"{sources})")
            }
            Function::Info => {
                let vector = self.vector(depth.min(1));
                match self.rng.below(7) {
                    6 => format!("info({vector}, {{__name__=~\"mixed|target_info\"}})"),
                    0..3 => format!("info({vector})"),
                    3 => format!("info({vector}, {{version=~\".+\"}})"),
                    4 => format!("info({vector}, {{__name__=~\".+_info\"}})"),
                    _ => format!("info({vector}, {{__name__=\"build_info\", build=\"x\"}})"),
                }
            }
            Function::SortByLabel | Function::SortByLabelDesc => {
                let labels =
                    self.rng.pick(&["\"instance\"", "\"code\", \"job\"", "\"job\", \"le\"", "\"version\""]);
                format!("{}({}, {labels})", signature.name, self.vector(depth))
            }
            Function::HistogramQuantile | Function::HistogramQuantiles => self.histogram_pipeline(depth),
            Function::Timestamp | Function::StartTimestamp if self.rng.chance(60) => {
                format!("{}({})", signature.name, self.selector())
            }
            Function::Absent if self.rng.chance(40) => {
                format!("absent({})", self.rng.pick(&["none{job=\"a\",env=\"b\"}", "none{x=\"y\",x=\"z\"}"]))
            }
            _ => self.plain_call(signature, depth),
        }
    }

    fn plain_call(&mut self, signature: &'static Signature, depth: u32) -> String {
        let mut args: Vec<String> = Vec::new();
        for (i, wanted) in signature.arg_types.iter().enumerate() {
            if signature.variadic > 0 && i + 1 == signature.arg_types.len() && self.rng.chance(30) {
                break;
            }
            args.push(match wanted {
                ValueType::Vector => self.vector(depth),
                ValueType::Matrix => self.matrix(depth, Some(signature.function)),
                ValueType::Scalar => match signature.function {
                    Function::DoubleExponentialSmoothing if self.rng.chance(90) => {
                        self.rng.pick(&["0.1", "0.5", "0.9"]).to_owned()
                    }
                    Function::QuantileOverTime if self.rng.chance(80) => {
                        self.rng.pick(&["0.5", "0.9", "0", "1"]).to_owned()
                    }
                    _ => self.scalar(1),
                },
                ValueType::String => self.string(),
            });
        }
        format!("{}({})", signature.name, args.join(", "))
    }
}

/// Whether a function has nothing to do without native histograms.
const fn is_of_histograms(function: Function) -> bool {
    matches!(
        function,
        Function::HistogramAvg
            | Function::HistogramCount
            | Function::HistogramFraction
            | Function::HistogramStddev
            | Function::HistogramStdvar
            | Function::HistogramSum
    )
}

/// Milliseconds as PromQL writes them: in the largest unit that divides them.
struct Ms(i64);

impl std::fmt::Display for Ms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
        match units.iter().find(|(ms, _)| self.0 % ms == 0) {
            Some((ms, unit)) => write!(f, "{}{unit}", self.0 / ms),
            None => write!(f, "{}ms", self.0),
        }
    }
}
