//! What this program was built from.

/// The version of Prometheus whose behaviour is reproduced; clients choose their dialect by it.
pub const PROMETHEUS_VERSION: &str = "3.14.0";

/// Our own version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Exporters that look at the name expect Prometheus's; the version is that of the protocol spoken.
pub const USER_AGENT: &str = concat!("Prometheus/3.14.0 (Chronolith/", env!("CARGO_PKG_VERSION"), ")");

/// The commit, empty if it is not known.
pub const REVISION: &str = env!("CHRONOLITH_REVISION");

/// The branch, empty if it is not known.
pub const BRANCH: &str = env!("CHRONOLITH_BRANCH");

/// Who built it; empty unless `CHRONOLITH_BUILD_USER` was set then, so that builds can be reproduced.
pub const USER: &str = env!("CHRONOLITH_BUILD_USER");

/// The compiler, as `rustc 1.95.0 (...)`.
pub const COMPILER: &str = env!("CHRONOLITH_COMPILER");

/// When it was built, as `20260822-12:34:56` in UTC; empty if it is not known.
pub fn date() -> String {
    let seconds = env!("CHRONOLITH_BUILD_TIME").parse::<i64>().ok();
    let timestamp = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    timestamp.map(|time| time.strftime("%Y%m%d-%H:%M:%S").to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_has_the_layout_of_prometheus() {
        let date = date();
        assert_eq!(date.len(), "20260822-12:34:56".len(), "{date}");
        assert_eq!(&date[8..9], "-");
    }
}
