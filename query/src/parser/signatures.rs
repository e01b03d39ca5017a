//! The functions of PromQL: names, argument types, what they return, and which are experimental.
//!
//! Source: Prometheus v3.14, `promql/parser/functions.go`.

use super::ast::ValueType::{self, Matrix, Scalar, String, Vector};

/// How a function may be called.
#[derive(Debug, PartialEq, Eq)]
pub struct Signature {
    /// The function.
    pub function: Function,
    /// The name as it is written.
    pub name: &'static str,
    /// Types of the arguments. Further arguments of a variadic function have the last type.
    pub arg_types: &'static [ValueType],
    /// 0: exactly `arg_types.len()` arguments. Otherwise the last one may be missing, and `variadic` of its kind
    /// are allowed; -1 means any number.
    pub variadic: i32,
    /// Type of the result.
    pub return_type: ValueType,
    /// Whether it needs the feature of experimental functions.
    pub experimental: bool,
}

impl Signature {
    /// The signature of the function called `name`; names are case-sensitive.
    pub fn find(name: &str) -> Option<&'static Self> {
        SIGNATURES.binary_search_by(|signature| signature.name.cmp(name)).ok().map(|at| &SIGNATURES[at])
    }
}

impl Function {
    /// How the function may be called.
    pub fn signature(self) -> &'static Signature {
        &SIGNATURES[self as usize]
    }

    /// The name as it is written.
    pub fn name(self) -> &'static str {
        self.signature().name
    }

    /// Whether the value changes with the time of evaluation although the arguments do not.
    ///
    /// Source: Prometheus v3.14, `promql/functions.go`, `AtModifierUnsafeFunctions`.
    pub const fn depends_on_time(self) -> bool {
        matches!(
            self,
            Self::DaysInMonth
                | Self::DayOfMonth
                | Self::DayOfWeek
                | Self::DayOfYear
                | Self::End
                | Self::Hour
                | Self::Minute
                | Self::Month
                | Self::Year
                | Self::PredictLinear
                | Self::Range
                | Self::Start
                | Self::Step
                | Self::Time
                | Self::Timestamp
        )
    }
}

/// Declares [`Function`] and [`SIGNATURES`] from one list, sorted by name.
macro_rules! functions {
    (@experimental stable) => { false };
    (@experimental experimental) => { true };
    ($($variant:ident $name:literal [$($arg:ident),*] $variadic:literal $returns:ident $state:ident;)*) => {
        /// Every function of the language, in the order of the names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Function {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        /// All signatures, sorted by name; the position is `Function as usize`.
        pub static SIGNATURES: &[Signature] = &[
            $(Signature {
                function: Function::$variant,
                name: $name,
                arg_types: &[$($arg),*],
                variadic: $variadic,
                return_type: $returns,
                experimental: functions!(@experimental $state),
            },)*
        ];
    };
}

functions! {
    Abs "abs" [Vector] 0 Vector stable;
    Absent "absent" [Vector] 0 Vector stable;
    AbsentOverTime "absent_over_time" [Matrix] 0 Vector stable;
    Acos "acos" [Vector] 0 Vector stable;
    Acosh "acosh" [Vector] 0 Vector stable;
    Asin "asin" [Vector] 0 Vector stable;
    Asinh "asinh" [Vector] 0 Vector stable;
    Atan "atan" [Vector] 0 Vector stable;
    Atanh "atanh" [Vector] 0 Vector stable;
    AvgOverTime "avg_over_time" [Matrix] 0 Vector stable;
    Ceil "ceil" [Vector] 0 Vector stable;
    Changes "changes" [Matrix] 0 Vector stable;
    Clamp "clamp" [Vector, Scalar, Scalar] 0 Vector stable;
    ClampMax "clamp_max" [Vector, Scalar] 0 Vector stable;
    ClampMin "clamp_min" [Vector, Scalar] 0 Vector stable;
    Cos "cos" [Vector] 0 Vector stable;
    Cosh "cosh" [Vector] 0 Vector stable;
    CountOverTime "count_over_time" [Matrix] 0 Vector stable;
    DayOfMonth "day_of_month" [Vector] 1 Vector stable;
    DayOfWeek "day_of_week" [Vector] 1 Vector stable;
    DayOfYear "day_of_year" [Vector] 1 Vector stable;
    DaysInMonth "days_in_month" [Vector] 1 Vector stable;
    Deg "deg" [Vector] 0 Vector stable;
    Delta "delta" [Matrix] 0 Vector stable;
    Deriv "deriv" [Matrix] 0 Vector stable;
    DoubleExponentialSmoothing "double_exponential_smoothing" [Matrix, Scalar, Scalar] 0 Vector experimental;
    End "end" [] 0 Scalar experimental;
    Exp "exp" [Vector] 0 Vector stable;
    FirstOverTime "first_over_time" [Matrix] 0 Vector stable;
    Floor "floor" [Vector] 0 Vector stable;
    HistogramAvg "histogram_avg" [Vector] 0 Vector stable;
    HistogramCount "histogram_count" [Vector] 0 Vector stable;
    HistogramFraction "histogram_fraction" [Scalar, Scalar, Vector] 0 Vector stable;
    HistogramQuantile "histogram_quantile" [Scalar, Vector] 0 Vector stable;
    HistogramQuantiles "histogram_quantiles" [Vector, String, Scalar, Scalar] 9 Vector experimental;
    HistogramStddev "histogram_stddev" [Vector] 0 Vector stable;
    HistogramStdvar "histogram_stdvar" [Vector] 0 Vector stable;
    HistogramSum "histogram_sum" [Vector] 0 Vector stable;
    Hour "hour" [Vector] 1 Vector stable;
    Idelta "idelta" [Matrix] 0 Vector stable;
    Increase "increase" [Matrix] 0 Vector stable;
    Info "info" [Vector, Vector] 1 Vector experimental;
    Irate "irate" [Matrix] 0 Vector stable;
    LabelJoin "label_join" [Vector, String, String, String] -1 Vector stable;
    LabelReplace "label_replace" [Vector, String, String, String, String] 0 Vector stable;
    LastOverTime "last_over_time" [Matrix] 0 Vector stable;
    Ln "ln" [Vector] 0 Vector stable;
    Log10 "log10" [Vector] 0 Vector stable;
    Log2 "log2" [Vector] 0 Vector stable;
    MadOverTime "mad_over_time" [Matrix] 0 Vector experimental;
    MaxOf "max_of" [Scalar, Scalar] 0 Scalar experimental;
    MaxOverTime "max_over_time" [Matrix] 0 Vector stable;
    MinOf "min_of" [Scalar, Scalar] 0 Scalar experimental;
    MinOverTime "min_over_time" [Matrix] 0 Vector stable;
    Minute "minute" [Vector] 1 Vector stable;
    Month "month" [Vector] 1 Vector stable;
    Pi "pi" [] 0 Scalar stable;
    PredictLinear "predict_linear" [Matrix, Scalar] 0 Vector stable;
    PresentOverTime "present_over_time" [Matrix] 0 Vector stable;
    QuantileOverTime "quantile_over_time" [Scalar, Matrix] 0 Vector stable;
    Rad "rad" [Vector] 0 Vector stable;
    Range "range" [] 0 Scalar experimental;
    Rate "rate" [Matrix] 0 Vector stable;
    Resets "resets" [Matrix] 0 Vector stable;
    Round "round" [Vector, Scalar] 1 Vector stable;
    Scalar "scalar" [Vector] 0 Scalar stable;
    Sgn "sgn" [Vector] 0 Vector stable;
    Sin "sin" [Vector] 0 Vector stable;
    Sinh "sinh" [Vector] 0 Vector stable;
    Sort "sort" [Vector] 0 Vector stable;
    SortByLabel "sort_by_label" [Vector, String] -1 Vector experimental;
    SortByLabelDesc "sort_by_label_desc" [Vector, String] -1 Vector experimental;
    SortDesc "sort_desc" [Vector] 0 Vector stable;
    Sqrt "sqrt" [Vector] 0 Vector stable;
    Start "start" [] 0 Scalar experimental;
    StartTimestamp "start_timestamp" [Vector] 0 Vector experimental;
    StddevOverTime "stddev_over_time" [Matrix] 0 Vector stable;
    StdvarOverTime "stdvar_over_time" [Matrix] 0 Vector stable;
    Step "step" [] 0 Scalar experimental;
    SumOverTime "sum_over_time" [Matrix] 0 Vector stable;
    Tan "tan" [Vector] 0 Vector stable;
    Tanh "tanh" [Vector] 0 Vector stable;
    Time "time" [] 0 Scalar stable;
    Timestamp "timestamp" [Vector] 0 Vector stable;
    TsOfFirstOverTime "ts_of_first_over_time" [Matrix] 0 Vector experimental;
    TsOfLastOverTime "ts_of_last_over_time" [Matrix] 0 Vector experimental;
    TsOfMaxOverTime "ts_of_max_over_time" [Matrix] 0 Vector experimental;
    TsOfMinOverTime "ts_of_min_over_time" [Matrix] 0 Vector experimental;
    Vector "vector" [Scalar] 0 Vector stable;
    Year "year" [Vector] 1 Vector stable;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_functions_find_their_row() {
        assert!(SIGNATURES.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(SIGNATURES.iter().all(|signature| signature.function.signature() == signature));
        assert_eq!(SIGNATURES.len(), 90);
    }

    #[test]
    fn functions_are_found_by_their_exact_name() {
        assert_eq!(Signature::find("rate").map(|s| s.function), Some(Function::Rate));
        assert_eq!(Signature::find("RATE"), None);
        assert_eq!(Signature::find(""), None);
    }
}
