//! Native histograms, column by column: a chunk has one form (whole numbers or floats) and one bucket
//! layout, so each bucket is a column of its own over time, which hardly changes from sample to sample.
//!
//! `layout | hints | count | zero count | sum | positive buckets | negative buckets`, the columns each
//! behind their length. Whole-number counts are stored as absolute counts in integer columns ([`ints`]),
//! everything else in float columns ([`column`]). A staleness marker is a histogram whose sum has its
//! bits; usually it has no buckets, which is a layout of its own and so a chunk of its own.

use super::bytes::{Reader, put_prefixed, put_signed, put_varint};
use super::{ChunkError, ChunkKind, Effort, MAX_SAMPLES, column, ints};
use chronolith_model::histogram::{CounterResetHint, FloatHistogram, Histogram, IntHistogram, Span};
use chronolith_model::queryable::HistogramNeed;
use chronolith_model::sample::{is_stale, stale_nan};
use std::sync::Arc;

/// A chunk of more than one sample holds at most this many bucket counts and spans, the spans counted
/// for each sample, as decoded histograms have them: 8 MB decoded.
pub const MAX_CELLS: usize = 1 << 20;

/// The first byte of a layout: how the zero threshold is stored.
const THRESHOLD_ZERO: u8 = 0;
/// The threshold that Prometheus's clients have by default: 2^-128.
const THRESHOLD_DEFAULT: u8 = 1;
const THRESHOLD_VERBATIM: u8 = 2;
const DEFAULT_THRESHOLD_BITS: u64 = 0x37f0_0000_0000_0000;

const BOUNDS_NONE: u8 = 0;
const BOUNDS_COLUMN: u8 = 1;
const BOUNDS_VERBATIM: u8 = 2;

/// The kind of chunk for a histogram.
pub const fn kind(histogram: &Histogram) -> ChunkKind {
    match histogram {
        Histogram::Int(_) => ChunkKind::IntHistogram,
        Histogram::Float(_) => ChunkKind::FloatHistogram,
    }
}

/// What all histograms of a chunk have in common.
#[derive(Clone, Copy, Debug)]
struct Layout<'a> {
    schema: i32,
    zero_threshold: f64,
    positive_spans: &'a [Span],
    negative_spans: &'a [Span],
    /// Columns of positive and of negative buckets.
    n_buckets: [usize; 2],
    custom_values: Option<&'a Arc<[f64]>>,
}

impl PartialEq for Layout<'_> {
    fn eq(&self, other: &Self) -> bool {
        let bounds = |values: Option<&Arc<[f64]>>| -> Option<Vec<u64>> {
            values.map(|values| values.iter().map(|value| value.to_bits()).collect())
        };
        self.schema == other.schema
            && self.zero_threshold.to_bits() == other.zero_threshold.to_bits()
            && self.positive_spans == other.positive_spans
            && self.negative_spans == other.negative_spans
            && self.n_buckets == other.n_buckets
            && bounds(self.custom_values) == bounds(other.custom_values)
    }
}

fn layout(histogram: &Histogram) -> Layout<'_> {
    match histogram {
        Histogram::Int(h) => Layout {
            schema: h.schema,
            zero_threshold: h.zero_threshold,
            positive_spans: &h.positive_spans,
            negative_spans: &h.negative_spans,
            n_buckets: [h.positive_deltas.len(), h.negative_deltas.len()],
            custom_values: h.custom_values.as_ref(),
        },
        Histogram::Float(h) => Layout {
            schema: h.schema,
            zero_threshold: h.zero_threshold,
            positive_spans: &h.positive_spans,
            negative_spans: &h.negative_spans,
            n_buckets: [h.positive_buckets.len(), h.negative_buckets.len()],
            custom_values: h.custom_values.as_ref(),
        },
    }
}

/// Whether both may be in one chunk: one form, one bucket layout, bit for bit.
pub fn same_layout(a: &Histogram, b: &Histogram) -> bool {
    kind(a) == kind(b) && layout(a) == layout(b)
}

/// How many histograms of this layout a chunk may hold.
pub fn max_samples(histogram: &Histogram) -> usize {
    let layout = layout(histogram);
    let n_spans = layout.positive_spans.len() + layout.negative_spans.len();
    let n_cells = n_spans + layout.n_buckets.iter().sum::<usize>();
    (MAX_CELLS / n_cells.max(1)).clamp(1, MAX_SAMPLES)
}

/// Appends a chunk of `histograms`: at least one, at most [`max_samples`], all of one layout.
///
/// # Panics
/// If there is none, or one has another form than the first or another number of buckets.
pub fn encode(histograms: &[Arc<Histogram>], effort: Effort, out: &mut Vec<u8>) {
    let layout = layout(&histograms[0]);
    debug_assert!(histograms.iter().all(|other| same_layout(&histograms[0], other)));
    put_layout(&layout, out);
    put_hints(histograms, out);
    match &*histograms[0] {
        Histogram::Int(_) => encode_ints(histograms, layout.n_buckets, effort, out),
        Histogram::Float(_) => encode_floats(histograms, layout.n_buckets, effort, out),
    }
}

fn put_layout(layout: &Layout<'_>, out: &mut Vec<u8>) {
    match layout.zero_threshold.to_bits() {
        0 => out.push(THRESHOLD_ZERO),
        DEFAULT_THRESHOLD_BITS => out.push(THRESHOLD_DEFAULT),
        bits => {
            out.push(THRESHOLD_VERBATIM);
            out.extend_from_slice(&bits.to_be_bytes());
        }
    }
    put_signed(out, layout.schema.into());
    for (spans, n_buckets) in [layout.positive_spans, layout.negative_spans].into_iter().zip(layout.n_buckets)
    {
        put_varint(out, spans.len() as u64);
        for span in spans {
            put_signed(out, span.offset.into());
            put_varint(out, span.length.into());
        }
        put_varint(out, n_buckets as u64);
    }
    match layout.custom_values {
        None => out.push(BOUNDS_NONE),
        Some(bounds) if bounds.is_empty() || bounds.len() > MAX_SAMPLES => {
            out.push(BOUNDS_VERBATIM);
            put_varint(out, bounds.len() as u64);
            bounds.iter().for_each(|bound| out.extend_from_slice(&bound.to_bits().to_be_bytes()));
        }
        Some(bounds) => {
            out.push(BOUNDS_COLUMN);
            put_varint(out, bounds.len() as u64);
            let mut bytes = Vec::new();
            column::encode(bounds, Effort::Seal, &mut bytes);
            put_prefixed(out, &bytes);
        }
    }
}

/// Runs of equal hints: `count << 2 | hint`, until all samples have one.
fn put_hints(histograms: &[Arc<Histogram>], out: &mut Vec<u8>) {
    let hint = |histogram: &Histogram| match histogram {
        Histogram::Int(h) => h.counter_reset_hint,
        Histogram::Float(h) => h.counter_reset_hint,
    };
    for run in histograms.chunk_by(|a, b| hint(a) == hint(b)) {
        put_varint(out, (run.len() as u64) << 2 | hint(&run[0]) as u64);
    }
}

fn encode_ints(histograms: &[Arc<Histogram>], n_buckets: [usize; 2], effort: Effort, out: &mut Vec<u8>) {
    let histograms: Vec<&IntHistogram> = histograms.iter().map(|histogram| int(histogram)).collect();
    let mut bytes = Vec::new();
    let mut put = |values: &[i64], out: &mut Vec<u8>| {
        bytes.clear();
        ints::encode(values, effort, &mut bytes);
        put_prefixed(out, &bytes);
    };
    let column = |of: &dyn Fn(&IntHistogram) -> u64| -> Vec<i64> {
        histograms.iter().map(|histogram| of(histogram) as i64).collect()
    };
    put(&column(&|h| h.count), out);
    put(&column(&|h| h.zero_count), out);
    put_floats(histograms.iter().map(|histogram| histogram.sum), effort, out);
    for (sign, n_buckets) in n_buckets.into_iter().enumerate() {
        let mut absolute = vec![0i64; histograms.len()];
        for bucket in 0..n_buckets {
            for (count, histogram) in absolute.iter_mut().zip(&histograms) {
                let deltas = [&histogram.positive_deltas, &histogram.negative_deltas][sign];
                *count = count.wrapping_add(deltas[bucket]);
            }
            put(&absolute, out);
        }
    }
}

fn encode_floats(histograms: &[Arc<Histogram>], n_buckets: [usize; 2], effort: Effort, out: &mut Vec<u8>) {
    let histograms: Vec<&FloatHistogram> = histograms.iter().map(|histogram| float(histogram)).collect();
    put_floats(histograms.iter().map(|histogram| histogram.count), effort, out);
    put_floats(histograms.iter().map(|histogram| histogram.zero_count), effort, out);
    put_floats(histograms.iter().map(|histogram| histogram.sum), effort, out);
    for (sign, n_buckets) in n_buckets.into_iter().enumerate() {
        for bucket in 0..n_buckets {
            let counts = histograms.iter().map(|h| [&h.positive_buckets, &h.negative_buckets][sign][bucket]);
            put_floats(counts, effort, out);
        }
    }
}

fn put_floats(values: impl Iterator<Item = f64>, effort: Effort, out: &mut Vec<u8>) {
    let values: Vec<f64> = values.collect();
    let mut bytes = Vec::new();
    column::encode(&values, effort, &mut bytes);
    put_prefixed(out, &bytes);
}

fn int(histogram: &Histogram) -> &IntHistogram {
    match histogram {
        Histogram::Int(histogram) => histogram,
        Histogram::Float(_) => panic!("a chunk of whole-number histograms holds another one"),
    }
}

fn float(histogram: &Histogram) -> &FloatHistogram {
    match histogram {
        Histogram::Float(histogram) => histogram,
        Histogram::Int(_) => panic!("a chunk of float histograms holds another one"),
    }
}

/// Which samples of a chunk are decoded.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'p> {
    /// How many the chunk has.
    pub count: usize,
    /// Positions that are wanted, ascending and below `count`; `None` for all.
    pub positions: Option<&'p [u32]>,
}

impl Rows<'_> {
    /// All samples of a chunk.
    pub const fn all(count: usize) -> Self {
        Self { count, positions: None }
    }

    fn len(&self) -> usize {
        self.positions.map_or(self.count, <[u32]>::len)
    }

    fn position(&self, index: usize) -> usize {
        self.positions.map_or(index, |positions| positions[index] as usize)
    }

    fn ints(&self, reader: &mut Reader<'_>, out: &mut Vec<i64>) -> Result<(), ChunkError> {
        out.clear();
        let bytes = reader.prefixed()?;
        match self.positions {
            None => ints::decode(bytes, self.count, out),
            Some(positions) => ints::decode_at(bytes, self.count, positions, out),
        }
    }

    fn floats(&self, reader: &mut Reader<'_>) -> Result<Vec<f64>, ChunkError> {
        let mut values = Vec::new();
        let bytes = reader.prefixed()?;
        match self.positions {
            None => column::decode(bytes, self.count, &mut values)?,
            Some(positions) => column::decode_at(bytes, self.count, positions, &mut values)?,
        }
        Ok(values)
    }
}

/// Appends the wanted histograms of a chunk. With [`HistogramNeed::None`] nothing of them is told but which
/// are staleness markers.
///
/// # Errors
/// [`ChunkError`] if `bytes` are no chunk of that many histograms of this kind, or `kind` is floats.
pub fn decode(
    bytes: &[u8],
    kind: ChunkKind,
    rows: Rows<'_>,
    need: HistogramNeed,
    out: &mut Vec<Arc<Histogram>>,
) -> Result<(), ChunkError> {
    if rows.count == 0 || rows.count > MAX_SAMPLES {
        return Err(ChunkError("a histogram chunk of too few or too many samples"));
    }
    let mut reader = Reader::new(bytes);
    let head = Head::read(&mut reader, rows.count)?;
    match (kind, need) {
        (ChunkKind::Float, _) => Err(ChunkError("a float chunk is no histogram chunk")),
        (_, HistogramNeed::None) => decode_presence(reader, rows, out),
        (ChunkKind::IntHistogram, _) => decode_ints(reader, &head, rows, out),
        (ChunkKind::FloatHistogram, _) => decode_floats(reader, &head, rows, out),
    }
}

/// Count and zero count are passed over; the sum of a staleness marker is one.
fn decode_presence(
    mut reader: Reader<'_>,
    rows: Rows<'_>,
    out: &mut Vec<Arc<Histogram>>,
) -> Result<(), ChunkError> {
    reader.prefixed()?;
    reader.prefixed()?;
    let sums = rows.floats(&mut reader)?;
    let [plain, stale] = [0.0, stale_nan()]
        .map(|sum| Arc::new(Histogram::Float(FloatHistogram { sum, ..FloatHistogram::default() })));
    out.extend(sums.iter().map(|&sum| Arc::clone(if is_stale(sum) { &stale } else { &plain })));
    Ok(())
}

/// Layout and hints as read.
struct Head {
    schema: i32,
    zero_threshold: f64,
    spans: [Vec<Span>; 2],
    n_buckets: [usize; 2],
    custom_values: Option<Arc<[f64]>>,
    hints: Vec<CounterResetHint>,
}

impl Head {
    fn read(reader: &mut Reader<'_>, count: usize) -> Result<Self, ChunkError> {
        let zero_threshold = f64::from_bits(match reader.u8()? {
            THRESHOLD_ZERO => 0,
            THRESHOLD_DEFAULT => DEFAULT_THRESHOLD_BITS,
            THRESHOLD_VERBATIM => reader.u64()?,
            _ => return Err(ChunkError("unknown form of a zero threshold")),
        });
        let out_of_range = |_| ChunkError("a histogram layout is out of range");
        let schema = i32::try_from(reader.signed()?).map_err(out_of_range)?;
        let (mut spans, mut n_buckets) = ([Vec::new(), Vec::new()], [0; 2]);
        for (spans, n_buckets) in spans.iter_mut().zip(&mut n_buckets) {
            // Two bytes a span and two a bucket column at least, so bytes bound both.
            let n_spans = reader.length(reader.rest().len() / 2)?;
            for _ in 0..n_spans {
                let offset = i32::try_from(reader.signed()?).map_err(out_of_range)?;
                let length = u32::try_from(reader.varint()?).map_err(out_of_range)?;
                spans.push(Span { offset, length });
            }
            *n_buckets = reader.length(reader.rest().len() / 2)?;
        }
        // Stored once, spans are in every decoded sample.
        let n_cells = spans[0].len() + spans[1].len() + n_buckets[0] + n_buckets[1];
        if count > 1 && n_cells.saturating_mul(count) > MAX_CELLS {
            return Err(ChunkError("a histogram chunk with too many buckets or spans"));
        }
        let custom_values = Self::read_bounds(reader)?;
        let hints = Self::read_hints(reader, count)?;
        Ok(Self { schema, zero_threshold, spans, n_buckets, custom_values, hints })
    }

    fn read_bounds(reader: &mut Reader<'_>) -> Result<Option<Arc<[f64]>>, ChunkError> {
        match reader.u8()? {
            BOUNDS_NONE => Ok(None),
            BOUNDS_COLUMN => {
                let count = reader.length(MAX_SAMPLES)?;
                let mut bounds = Vec::new();
                column::decode(reader.prefixed()?, count, &mut bounds)?;
                Ok(Some(Arc::from(bounds)))
            }
            BOUNDS_VERBATIM => {
                let count = reader.length(reader.rest().len() / 8)?;
                let bounds = (0..count).map(|_| Ok(f64::from_bits(reader.u64()?)));
                Ok(Some(bounds.collect::<Result<Vec<f64>, ChunkError>>()?.into()))
            }
            _ => Err(ChunkError("unknown form of custom bounds")),
        }
    }

    fn read_hints(reader: &mut Reader<'_>, count: usize) -> Result<Vec<CounterResetHint>, ChunkError> {
        let mut hints = Vec::with_capacity(count);
        while hints.len() < count {
            let run = reader.varint()?;
            let hint = match run & 3 {
                0 => CounterResetHint::Unknown,
                1 => CounterResetHint::Reset,
                2 => CounterResetHint::NotReset,
                _ => CounterResetHint::Gauge,
            };
            let length = usize::try_from(run >> 2)
                .ok()
                .filter(|&length| length > 0 && length <= count - hints.len())
                .ok_or(ChunkError("reset hints of more samples than there are"))?;
            hints.extend(std::iter::repeat_n(hint, length));
        }
        Ok(hints)
    }
}

fn decode_ints(
    mut reader: Reader<'_>,
    head: &Head,
    rows: Rows<'_>,
    out: &mut Vec<Arc<Histogram>>,
) -> Result<(), ChunkError> {
    let (mut counts, mut zero_counts) = (Vec::new(), Vec::new());
    rows.ints(&mut reader, &mut counts)?;
    rows.ints(&mut reader, &mut zero_counts)?;
    let sums = rows.floats(&mut reader)?;
    let mut histograms: Vec<IntHistogram> = (0..rows.len())
        .map(|i| IntHistogram {
            counter_reset_hint: head.hints[rows.position(i)],
            schema: head.schema,
            zero_threshold: head.zero_threshold,
            zero_count: zero_counts[i] as u64,
            count: counts[i] as u64,
            sum: sums[i],
            positive_spans: head.spans[0].clone(),
            negative_spans: head.spans[1].clone(),
            positive_deltas: Vec::new(),
            negative_deltas: Vec::new(),
            custom_values: head.custom_values.clone(),
        })
        .collect();
    let mut absolute = Vec::new();
    for sign in 0..2 {
        let mut before = vec![0i64; rows.len()];
        for _ in 0..head.n_buckets[sign] {
            rows.ints(&mut reader, &mut absolute)?;
            for ((histogram, &count), before) in histograms.iter_mut().zip(&absolute).zip(&before) {
                let delta = count.wrapping_sub(*before);
                [&mut histogram.positive_deltas, &mut histogram.negative_deltas][sign].push(delta);
            }
            std::mem::swap(&mut before, &mut absolute);
        }
    }
    reader.end()?;
    out.extend(histograms.into_iter().map(|histogram| Arc::new(Histogram::Int(histogram))));
    Ok(())
}

fn decode_floats(
    mut reader: Reader<'_>,
    head: &Head,
    rows: Rows<'_>,
    out: &mut Vec<Arc<Histogram>>,
) -> Result<(), ChunkError> {
    let counts = rows.floats(&mut reader)?;
    let zero_counts = rows.floats(&mut reader)?;
    let sums = rows.floats(&mut reader)?;
    let mut histograms: Vec<FloatHistogram> = (0..rows.len())
        .map(|i| FloatHistogram {
            counter_reset_hint: head.hints[rows.position(i)],
            schema: head.schema,
            zero_threshold: head.zero_threshold,
            zero_count: zero_counts[i],
            count: counts[i],
            sum: sums[i],
            positive_spans: head.spans[0].clone(),
            negative_spans: head.spans[1].clone(),
            positive_buckets: Vec::new(),
            negative_buckets: Vec::new(),
            custom_values: head.custom_values.clone(),
        })
        .collect();
    for sign in 0..2 {
        for _ in 0..head.n_buckets[sign] {
            let bucket = rows.floats(&mut reader)?;
            for (histogram, count) in histograms.iter_mut().zip(bucket) {
                [&mut histogram.positive_buckets, &mut histogram.negative_buckets][sign].push(count);
            }
        }
    }
    reader.end()?;
    out.extend(histograms.into_iter().map(|histogram| Arc::new(Histogram::Float(histogram))));
    Ok(())
}

#[cfg(test)]
mod tests;
