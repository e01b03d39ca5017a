//! From the answer of a target to one batch, and from the batch to storage.
//!
//! This is the part of a scrape that computes and blocks: it reads no clock but the stopwatch it is
//! given, and does no I/O but the append.
//!
//! Source: Prometheus v3.14, `scrape/scrape.go`, `scrapeLoopAppender.append`, `report`, `reportStale`.

use super::Appender;
use super::cache::{Cache, Finish, SeriesIndex};
use super::classic::{ClassicSeries, Converted};
use super::client::{Fetched, body_limit};
use super::error::ScrapeError;
use super::metrics::ScrapeMetrics;
use super::target::Target;
use crate::config::{NameValidation, ScrapeConfig, ScrapeLimits};
use crate::relabel;
use chronolith_model::Labels;
use chronolith_model::append::{
    AppendBatch, AppendOutcome, BatchSeries, Exemplar, HistogramSample, Metadata, MetricType, Sample,
    SeriesKey, SeriesRef,
};
use chronolith_model::histogram::{Histogram, MAX_EXPONENTIAL_SCHEMA, MIN_EXPONENTIAL_SCHEMA};
use chronolith_model::labels::{METRIC_NAME, is_legacy_label_name, is_legacy_metric_name};
use chronolith_model::sample::stale_nan;
use chronolith_wire::exposition::protobuf::{self, PointValue};
use chronolith_wire::exposition::{Entry, Format, LabelsError, Parser, Series};
use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

/// OpenMetrics's limit for the label set of an exemplar, in characters of names and values.
const MAX_EXEMPLAR_CHARS: usize = 128;

/// How much of a series an error shows.
const EXCERPT_BYTES: usize = 200;

/// Samples about the scrape itself: name, help, unit.
const REPORT: [(&str, &str, &str); 8] = [
    ("up", "Health of the scrape target. 1 means the target is healthy, 0 if the scrape failed.", "targets"),
    ("scrape_duration_seconds", "Duration of the last scrape in seconds.", "seconds"),
    ("scrape_samples_scraped", "Number of samples last scraped.", "samples"),
    (
        "scrape_samples_post_metric_relabeling",
        "Number of samples remaining after metric relabeling was applied.",
        "samples",
    ),
    ("scrape_series_added", "Number of series in the last scrape.", "series"),
    ("scrape_timeout_seconds", "The configured scrape timeout for a target.", "seconds"),
    (
        "scrape_sample_limit",
        "The configured sample limit for a target. Returns zero if there is no limit configured.",
        "samples",
    ),
    (
        "scrape_body_size_bytes",
        "The uncompressed size of the last scrape response, if successful. Scrapes failing because \
         body_size_limit is exceeded report -1, other scrape failures report 0.",
        "bytes",
    ),
];

/// How many of [`REPORT`] are always written; the others with `extra_scrape_metrics`.
const N_REPORT_ALWAYS: usize = 5;

/// What scrapes of one target leave to the next.
pub(super) struct Processor {
    target: Arc<Target>,
    appender: Arc<dyn Appender>,
    metrics: ScrapeMetrics,
    cache: Cache,
    report: Vec<ReportSeries>,
    report_is_known: bool,
    /// The rules under which the cache was filled.
    rules: u64,
    n_scrapes: u64,
    /// Size of the last body in plain: the next one is most likely as large.
    last_body_bytes: usize,
}

struct ReportSeries {
    labels: Labels,
    reference: Option<SeriesRef>,
}

/// A sample on its way into the batch.
struct Pending {
    series: SeriesIndex,
    timestamp: i64,
    value: PointValue,
    exemplars: Vec<Exemplar>,
}

/// One scrape while its body is read.
struct Scrape<'s> {
    config: &'s ScrapeConfig,
    /// When it began.
    timestamp: i64,
    reading: &'s mut Reading,
}

/// A sample as a body has it.
struct Exposed<'a> {
    /// Names the series.
    raw: &'a [u8],
    metric_type: MetricType,
    timestamp: Option<i64>,
    value: PointValue,
}

/// What reading a body yields.
#[derive(Default)]
struct Reading {
    pending: Vec<Pending>,
    /// Series to be marked stale once they stop coming.
    tracked: Vec<SeriesIndex>,
    n_scraped: u64,
    n_after_relabelling: u64,
    n_series_added: u64,
    n_duplicates: u64,
    is_over_limit: bool,
    body_bytes: i64,
}

impl Processor {
    pub fn new(target: Arc<Target>, appender: Arc<dyn Appender>, metrics: ScrapeMetrics) -> Self {
        let report = REPORT
            .iter()
            .map(|(name, ..)| {
                let mut labels = target.public_labels.to_builder();
                labels.set(METRIC_NAME, name);
                ReportSeries { labels: labels.build(), reference: None }
            })
            .collect();
        Self {
            target,
            appender,
            metrics,
            cache: Cache::new(),
            report,
            report_is_known: false,
            rules: 0,
            n_scrapes: 0,
            last_body_bytes: 0,
        }
    }

    /// Appends one scrape, dated `timestamp`, that `started` then. `rules` is another number whenever
    /// labels of the same body may come out differently than before. Returns why it failed, if it did.
    pub fn scrape(
        &mut self,
        config: &ScrapeConfig,
        rules: u64,
        fetched: Result<Fetched, ScrapeError>,
        timestamp: i64,
        started: Instant,
    ) -> Option<String> {
        self.n_scrapes += 1;
        if std::mem::replace(&mut self.rules, rules) != rules {
            self.cache.forget_meanings();
        }
        let mut reading = Reading::default();
        let result = fetched.and_then(|fetched| self.read(config, fetched, timestamp, &mut reading));
        let error = result.err();
        // A scrape that fails is an empty one: everything that came before is gone.
        let vanished = match &error {
            None => self.cache.vanished(),
            Some(_) => {
                reading.pending.clear();
                reading.tracked.clear();
                self.cache.tracked().to_vec()
            }
        };
        let body_bytes = match &error {
            Some(ScrapeError::BodySizeLimit) => -1,
            _ => reading.body_bytes,
        };
        let duration_s = started.elapsed().as_secs_f64();
        let values = [
            f64::from(u8::from(error.is_none())),
            duration_s,
            reading.n_scraped as f64,
            reading.n_after_relabelling as f64,
            reading.n_series_added as f64,
            self.target.timeout_ms as f64 / 1e3,
            config.limits.samples as f64,
            body_bytes as f64,
        ];
        let n_report = if config.extra_scrape_metrics { REPORT.len() } else { N_REPORT_ALWAYS };
        self.count_error(error.as_ref());
        if let Some(error) = &error {
            tracing::debug!(target_url = %self.target.url, %error, "Scrape failed");
        }
        let is_success = error.is_none();
        let failure = error.map(|error| error.to_string());
        self.target.report(timestamp, duration_s, failure.clone());
        let is_appended = self.append(reading.pending, &values[..n_report], Vec::new(), vanished, timestamp);
        let finish = match (is_appended, is_success) {
            (false, _) => Finish::NotAppended,
            (true, true) => Finish::Success,
            (true, false) => Finish::Failure,
        };
        if self.cache.finish(reading.tracked, finish) {
            self.metrics.cache_flush_forced.inc();
        }
        if is_success {
            self.target.sweep_metadata(self.n_scrapes);
        }
        failure
    }

    /// Marks everything of the target stale, the samples about the scrape included.
    pub fn end(&mut self, timestamp: i64) {
        let vanished = self.cache.tracked().to_vec();
        self.append(Vec::new(), &[], (0..self.report.len()).collect(), vanished, timestamp);
    }

    fn count_error(&self, error: Option<&ScrapeError>) {
        match error {
            Some(ScrapeError::BodySizeLimit) => self.metrics.exceeded_body_size_limit.inc(),
            Some(ScrapeError::SampleLimit) => self.metrics.exceeded_sample_limit.inc(),
            Some(ScrapeError::LabelLimit(_)) => self.metrics.exceeded_label_limits.inc(),
            _ => {}
        }
    }

    fn read(
        &mut self,
        config: &ScrapeConfig,
        fetched: Fetched,
        timestamp: i64,
        reading: &mut Reading,
    ) -> Result<(), ScrapeError> {
        let content_type = fetched.content_type.clone();
        let body = decompress(fetched, body_limit(config), self.last_body_bytes)?;
        reading.body_bytes = body.len() as i64;
        self.last_body_bytes = body.len();
        self.read_body(config, &body, &content_type, timestamp, reading)
    }

    fn read_body(
        &mut self,
        config: &ScrapeConfig,
        body: &[u8],
        content_type: &str,
        timestamp: i64,
        reading: &mut Reading,
    ) -> Result<(), ScrapeError> {
        if body.is_empty() {
            return Ok(());
        }
        let fallback = config.fallback_scrape_protocol.map(|protocol| {
            use crate::config::ScrapeProtocol as P;
            match protocol {
                P::PrometheusText0_0_4 | P::PrometheusText1_0_0 => Format::Text,
                P::OpenMetricsText0_0_1 | P::OpenMetricsText1_0_0 => Format::OpenMetrics,
                P::PrometheusProto => Format::Protobuf,
            }
        });
        let mut scrape = Scrape { config, timestamp, reading };
        match Format::from_content_type(content_type, fallback)? {
            Format::Protobuf => {
                let histograms = self.target.histograms;
                protobuf::decode(
                    body,
                    histograms,
                    &mut ProtobufBody { processor: self, scrape: &mut scrape },
                )?;
            }
            format => self.read_text(&mut scrape, Parser::new(body, format))?,
        }
        if reading.n_duplicates > 0 {
            self.metrics.sample_duplicate.add(reading.n_duplicates);
            tracing::warn!(
                target_url = %self.target.url,
                num_dropped = reading.n_duplicates,
                "Error on ingesting samples with different value but same timestamp"
            );
        }
        if reading.is_over_limit { Err(ScrapeError::SampleLimit) } else { Ok(()) }
    }

    fn read_text(&mut self, scrape: &mut Scrape<'_>, mut parser: Parser<'_>) -> Result<(), ScrapeError> {
        let mut classic = self.target.histograms.convert_classic.then(ClassicSeries::default);
        while let Some(entry) = parser.next_entry()? {
            let series = match entry {
                Entry::Series(series) => series,
                Entry::Type { name, metric_type } => {
                    if let Some(classic) = &mut classic {
                        self.take_converted(scrape, classic.next_family(&name, metric_type))?;
                    }
                    self.target.see_type(&name, metric_type, self.n_scrapes);
                    continue;
                }
                Entry::Help { name, text } => {
                    self.target.see_help(&name, &text, self.n_scrapes);
                    continue;
                }
                Entry::Unit { name, unit } => {
                    self.target.see_unit(&name, unit, self.n_scrapes);
                    continue;
                }
                Entry::Comment => continue,
            };
            if let Some(classic) = &mut classic {
                let seen = classic.see(&series).map_err(|source| labels_error(series.raw, source))?;
                self.take_converted(scrape, seen.complete)?;
                if seen.is_part && !self.target.histograms.classic_too {
                    continue;
                }
            }
            let exposed = Exposed {
                raw: series.raw,
                metric_type: type_for_labels(series.metric_type),
                timestamp: series.timestamp,
                value: PointValue::Float(series.value),
            };
            self.take(
                scrape,
                exposed,
                || series.labels(),
                |timestamp| exemplar(&series, timestamp).into_iter().collect(),
            )?;
        }
        match classic {
            Some(mut classic) => self.take_converted(scrape, classic.complete()),
            None => Ok(()),
        }
    }

    /// Takes a native histogram that was put together from classic series.
    fn take_converted(
        &mut self,
        scrape: &mut Scrape<'_>,
        converted: Option<Converted>,
    ) -> Result<(), ScrapeError> {
        let Some(converted) = converted else { return Ok(()) };
        let exposed = Exposed {
            raw: &converted.raw,
            metric_type: MetricType::Unknown,
            timestamp: converted.timestamp,
            value: PointValue::Histogram(converted.histogram),
        };
        self.take(scrape, exposed, || protobuf::labels(&converted.raw), |_| converted.exemplars)
    }

    /// Puts one sample on its way into the batch, unless relabelling drops its series. `labels` is asked
    /// for a series that is not known, `exemplars` with the time of the sample.
    fn take(
        &mut self,
        scrape: &mut Scrape<'_>,
        exposed: Exposed<'_>,
        labels: impl FnOnce() -> Result<Labels, LabelsError>,
        exemplars: impl FnOnce(i64) -> Vec<Exemplar>,
    ) -> Result<(), ScrapeError> {
        let Scrape { config, timestamp, reading } = scrape;
        reading.n_scraped += 1;
        let (index, is_new) = match self.cache.get(exposed.raw, exposed.metric_type) {
            Some(None) => return Ok(()),
            Some(Some(index)) => (index, false),
            None => {
                let labels = labels().map_err(|source| labels_error(exposed.raw, source))?;
                match self.resolve(config, &exposed, &labels)? {
                    Some(found) => found,
                    None => return Ok(()),
                }
            }
        };
        // Counted on, so that the report tells by how much a body is over the limit.
        reading.n_after_relabelling += 1;
        let limit = config.limits.samples;
        reading.is_over_limit |= limit > 0 && reading.n_after_relabelling > limit;
        if reading.is_over_limit {
            return Ok(());
        }
        reading.n_series_added += u64::from(is_new);
        let own_timestamp = exposed.timestamp.filter(|_| config.honor_timestamps);
        if self.cache.mark_scraped(index) && own_timestamp.is_none() {
            reading.n_duplicates += 1;
            return Ok(());
        }
        let is_tracked = own_timestamp.is_none() || config.track_timestamps_staleness;
        if is_tracked && self.cache.track(index) {
            reading.tracked.push(index);
        }
        let timestamp = own_timestamp.unwrap_or(*timestamp);
        let value = match exposed.value {
            PointValue::Histogram(histogram) => PointValue::Histogram(limited(histogram, config)?),
            value => value,
        };
        reading.pending.push(Pending { series: index, timestamp, value, exemplars: exemplars(timestamp) });
        Ok(())
    }

    /// Finds out the labels of a series that the cache does not know; `None` if it is dropped. The
    /// second part says whether the series is new, not just spelled in another way.
    fn resolve(
        &mut self,
        config: &ScrapeConfig,
        series: &Exposed<'_>,
        exposed: &Labels,
    ) -> Result<Option<(SeriesIndex, bool)>, ScrapeError> {
        let labels = mutate(exposed, &self.target.public_labels, config);
        if let Some(labels) = &labels {
            check_names(labels, config.name_validation)?;
            check_limits(labels, &config.limits).map_err(ScrapeError::LabelLimit)?;
        }
        Ok(self.cache.insert(series.raw, series.metric_type, labels))
    }

    /// Appends samples, the report (as values or, by index, as staleness markers) and staleness
    /// markers, all in one batch. Returns whether storage took it.
    fn append(
        &mut self,
        pending: Vec<Pending>,
        report: &[f64],
        stale_report: Vec<usize>,
        vanished: Vec<SeriesIndex>,
        timestamp: i64,
    ) -> bool {
        let mut metadata = self.target.take_changed_metadata();
        if !report.is_empty() && !self.report_is_known {
            metadata.extend(report_metadata(report.len()));
        }
        let n = pending.len() + report.len() + stale_report.len() + vanished.len();
        let mut batch = AppendBatch {
            series: Vec::with_capacity(n),
            samples: Vec::with_capacity(n),
            metadata: metadata.iter().map(|(name, metadata)| (name.as_str(), metadata.clone())).collect(),
            newest_only_from: pending.len() + report.len(),
            ..AppendBatch::default()
        };
        let cached = |index: SeriesIndex| {
            let series = self.cache.series(index);
            key(series.reference, &series.labels)
        };
        let own = |i: usize| key(self.report[i].reference, &self.report[i].labels);
        let indexes: Vec<SeriesIndex> = pending.iter().map(|pending| pending.series).collect();
        for pending in pending {
            push(&mut batch, cached(pending.series), pending.timestamp, pending.value, pending.exemplars);
        }
        let mut push_now =
            |key, value| push(&mut batch, key, timestamp, PointValue::Float(value), Vec::new());
        for (i, &value) in report.iter().enumerate() {
            push_now(own(i), value);
        }
        for &i in &stale_report {
            push_now(own(i), stale_nan());
        }
        for &index in &vanished {
            push_now(cached(index), stale_nan());
        }
        match self.appender.append(&batch, true) {
            Ok(outcome) => {
                self.count(&outcome);
                self.keep_references(&outcome.refs, &indexes, report.len());
                self.report_is_known |= !report.is_empty();
                true
            }
            Err(error) => {
                tracing::warn!(target_url = %self.target.url, %error, "Scrape commit failed");
                self.target.give_back_metadata();
                false
            }
        }
    }

    fn keep_references(&mut self, refs: &[Option<SeriesRef>], indexes: &[SeriesIndex], n_report: usize) {
        for (&index, &reference) in indexes.iter().zip(refs) {
            self.cache.set_reference(index, reference);
        }
        let refs = refs.get(indexes.len()..).unwrap_or_default();
        for (report, &reference) in self.report[..n_report].iter_mut().zip(refs) {
            report.reference = reference;
        }
    }

    fn count(&self, outcome: &AppendOutcome) {
        self.metrics.sample_duplicate.add(outcome.refused_duplicate);
        self.metrics.sample_out_of_bounds.add(outcome.refused_too_old + outcome.refused_too_new);
        self.metrics.sample_out_of_order.add(outcome.out_of_order);
        if let Some((series, timestamp, reason)) = &outcome.first_refused {
            if matches!(reason, chronolith_model::append::Refusal::ExemplarOutOfOrder) {
                self.metrics.exemplar_out_of_order.inc();
                return;
            }
            tracing::warn!(
                target_url = %self.target.url,
                num_dropped = outcome.refused,
                series,
                timestamp,
                %reason,
                "Error on ingesting samples"
            );
        }
    }
}

/// The type, as far as it has a say in the labels of a series.
fn type_for_labels(metric_type: MetricType) -> MetricType {
    match metric_type {
        MetricType::Histogram | MetricType::Summary => metric_type,
        _ => MetricType::Unknown,
    }
}

fn key(reference: Option<SeriesRef>, labels: &Labels) -> SeriesKey<'_> {
    match reference {
        Some(reference) => SeriesKey::Ref(reference, labels),
        None => SeriesKey::Labels(labels),
    }
}

fn push<'a>(
    batch: &mut AppendBatch<'a>,
    key: SeriesKey<'a>,
    timestamp: i64,
    value: PointValue,
    exemplars: Vec<Exemplar>,
) {
    let (first_sample, first_histogram) = (batch.samples.len() as u32, batch.histograms.len() as u32);
    let first_exemplar = batch.exemplars.len() as u32;
    match value {
        PointValue::Float(value) => batch.samples.push(Sample { timestamp, value, start_timestamp: 0 }),
        PointValue::Histogram(histogram) => {
            batch.histograms.push(HistogramSample { timestamp, start_timestamp: 0, histogram });
        }
    }
    batch.exemplars.extend(exemplars);
    batch.series.push(BatchSeries {
        key,
        samples: first_sample..batch.samples.len() as u32,
        histograms: first_histogram..batch.histograms.len() as u32,
        exemplars: first_exemplar..batch.exemplars.len() as u32,
    });
}

fn report_metadata(n: usize) -> impl Iterator<Item = (String, Metadata)> {
    REPORT.iter().take(n).map(|&(name, help, unit)| {
        let metric_type = MetricType::Gauge;
        (name.to_owned(), Metadata { metric_type, help: help.to_owned(), unit: unit.to_owned() })
    })
}

/// The body in plain; `expected_bytes` is a guess of its size.
fn decompress(fetched: Fetched, limit_bytes: u64, expected_bytes: usize) -> Result<Vec<u8>, ScrapeError> {
    if !fetched.is_gzip {
        return Ok(fetched.body);
    }
    let mut body = Vec::with_capacity(expected_bytes);
    let decoder = flate2::read::MultiGzDecoder::new(&fetched.body[..]);
    let read = decoder.take(limit_bytes).read_to_end(&mut body).map_err(ScrapeError::Gzip)?;
    if read as u64 >= limit_bytes { Err(ScrapeError::BodySizeLimit) } else { Ok(body) }
}

/// The exemplar of a sample, unless it is too large or no label set.
fn exemplar(series: &Series<'_>, timestamp: i64) -> Option<Exemplar> {
    series.exemplar(timestamp)?.ok().filter(is_small)
}

pub(super) fn is_small(exemplar: &Exemplar) -> bool {
    let n_chars: usize = exemplar.labels.iter().map(|(n, v)| n.chars().count() + v.chars().count()).sum();
    n_chars <= MAX_EXEMPLAR_CHARS
}

fn labels_error(raw: &[u8], source: LabelsError) -> ScrapeError {
    let excerpt = &raw[..raw.len().min(EXCERPT_BYTES)];
    ScrapeError::Labels { series: String::from_utf8_lossy(excerpt).into_owned(), source }
}

/// A histogram with as many buckets as the configuration allows, at a lower resolution if need be.
///
/// Source: Prometheus v3.14, `scrape/target.go`, `bucketLimitAppender` and `maxSchemaAppender`.
fn limited(mut histogram: Histogram, config: &ScrapeConfig) -> Result<Histogram, ScrapeError> {
    let is_exponential = |histogram: &Histogram| histogram.schema() >= MIN_EXPONENTIAL_SCHEMA;
    let limit = usize::try_from(config.native_histogram_bucket_limit).unwrap_or(usize::MAX);
    while limit > 0 && n_buckets(&histogram) > limit {
        if !is_exponential(&histogram) || histogram.schema() == MIN_EXPONENTIAL_SCHEMA {
            return Err(ScrapeError::BucketLimit);
        }
        histogram.reduce_resolution(histogram.schema() - 1);
    }
    if config.native_histogram_min_bucket_factor > 1.0 && is_exponential(&histogram) {
        let max_schema = max_schema(config.native_histogram_min_bucket_factor);
        if histogram.schema() > max_schema {
            histogram.reduce_resolution(max_schema);
        }
    }
    Ok(histogram)
}

fn n_buckets(histogram: &Histogram) -> usize {
    match histogram {
        Histogram::Int(h) => h.positive_deltas.len() + h.negative_deltas.len(),
        Histogram::Float(h) => h.positive_buckets.len() + h.negative_buckets.len(),
    }
}

/// The finest schema whose buckets grow by this factor at least.
///
/// Source: Prometheus v3.14, `scrape/scrape.go`, `pickSchema`.
fn max_schema(factor: f64) -> i32 {
    let floor = factor.log2().log2().floor();
    (-floor).clamp(f64::from(MIN_EXPONENTIAL_SCHEMA), f64::from(MAX_EXPONENTIAL_SCHEMA)) as i32
}

/// A body of protobuf messages on its way into the batch.
struct ProtobufBody<'p, 's> {
    processor: &'p mut Processor,
    scrape: &'p mut Scrape<'s>,
}

impl protobuf::Sink for ProtobufBody<'_, '_> {
    type Error = ScrapeError;

    fn family(&mut self, family: &protobuf::Family<'_>) -> Result<(), ScrapeError> {
        let (target, n_scrapes) = (&self.processor.target, self.processor.n_scrapes);
        target.see_type(family.name, family.metric_type, n_scrapes);
        target.see_help(family.name, family.help, n_scrapes);
        if !family.unit.is_empty() {
            target.see_unit(family.name, family.unit, n_scrapes);
        }
        Ok(())
    }

    fn point(&mut self, _: &protobuf::Family<'_>, point: protobuf::Point<'_>) -> Result<(), ScrapeError> {
        let protobuf::Point { raw, value, timestamp, exemplars } = point;
        let exposed = Exposed { raw, metric_type: MetricType::Unknown, timestamp, value };
        let exemplars = |timestamp| {
            let all = exemplars.into_iter().map(|exemplar| Exemplar {
                labels: exemplar.labels,
                value: exemplar.value,
                timestamp: exemplar.timestamp.unwrap_or(timestamp),
            });
            all.filter(is_small).collect()
        };
        self.processor.take(self.scrape, exposed, || protobuf::labels(raw), exemplars)
    }
}

/// Adds the target's labels and relabels; `None` if the series is dropped.
///
/// Source: Prometheus v3.14, `scrape/scrape.go`, `mutateSampleLabels` and
/// `resolveConflictingExposedLabels`.
fn mutate(exposed: &Labels, target: &Labels, config: &ScrapeConfig) -> Option<Labels> {
    let mut labels = exposed.to_builder();
    if config.honor_labels {
        for (name, value) in target.iter().filter(|(name, _)| exposed.get(name).is_none()) {
            labels.set(name, value);
        }
    } else {
        let mut conflicting: Vec<(&str, &str)> = Vec::new();
        for (name, value) in target.iter() {
            conflicting.extend(exposed.get(name).map(|exposed| (name, exposed)));
            labels.set(name, value);
        }
        // Shorter names first: the sort is stable, so that the outcome is defined.
        conflicting.sort_by_key(|(name, _)| name.len());
        for (name, value) in conflicting {
            let mut renamed = format!("exported_{name}");
            while labels.get(&renamed).is_some() {
                renamed.insert_str(0, "exported_");
            }
            labels.set(&renamed, value);
        }
    }
    relabel::apply(&config.metric_relabel_configs, &mut labels)
        .then(|| labels.build())
        .filter(|labels| !labels.is_empty())
}

fn check_names(labels: &Labels, validation: NameValidation) -> Result<(), ScrapeError> {
    let name = labels.metric_name();
    let is_valid = match validation {
        NameValidation::Utf8 => !name.is_empty(),
        NameValidation::Legacy => {
            is_legacy_metric_name(name)
                && labels.iter().all(|(name, _)| name == METRIC_NAME || is_legacy_label_name(name))
        }
    };
    if is_valid { Ok(()) } else { Err(ScrapeError::InvalidNames(labels.to_string())) }
}

/// Source: Prometheus v3.14, `scrape/scrape.go`, `verifyLabelLimits`.
fn check_limits(labels: &Labels, limits: &ScrapeLimits) -> Result<(), String> {
    let short = |text: &str| text.chars().take(50).collect::<String>();
    let metric = short(labels.metric_name());
    let is_over = |length: usize, limit: u64| limit > 0 && length as u64 > limit;
    if is_over(labels.len(), limits.labels) {
        return Err(format!(
            "label_limit exceeded (metric: {metric}, number of labels: {}, limit: {})",
            labels.len(),
            limits.labels
        ));
    }
    for (name, value) in labels.iter() {
        if is_over(name.len(), limits.label_name_length) {
            return Err(format!(
                "label_name_length_limit exceeded (metric: {metric}, label name: {}, length: {}, limit: {})",
                short(name),
                name.len(),
                limits.label_name_length
            ));
        }
        if is_over(value.len(), limits.label_value_length) {
            return Err(format!(
                "label_value_length_limit exceeded (metric: {metric}, label name: {}, value: {:?}, length: {}, limit: {})",
                short(name),
                short(value),
                value.len(),
                limits.label_value_length
            ));
        }
    }
    Ok(())
}
