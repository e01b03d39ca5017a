//! Requests of remote write 2.0 without their samples. A sender that cuts its scrapes alike sends the same symbols and
//! numbers again and again; whoever knows them from before need not read them.

use super::protobuf::{BYTES, Reader, double_and_integer};
use chronolith_model::append::{AppendBatch, BatchSeries, Sample, SeriesKey};

const SYMBOL_TAG: u8 = 4 << 3 | BYTES;
const SERIES_TAG: u8 = 5 << 3 | BYTES;
/// Bytes of a series with few labels and one sample: room for so many is made at once.
const USUAL_SERIES_BYTES: usize = 24;
/// Metadata of a series about which nothing is known. Prometheus always writes it.
const NO_METADATA: &[u8] = &[5 << 3 | BYTES, 0];

/// The fields of the symbols with which a request begins, as they stand.
pub fn symbols(body: &[u8]) -> &[u8] {
    let mut reader = Reader::new(body, "request");
    loop {
        reader.skip_short_fields(SYMBOL_TAG);
        let Some((_, next)) = reader.peek_short(SYMBOL_TAG) else { break };
        reader.pass_to(next);
    }
    &body[..reader.at()]
}

/// Takes the samples of a request that is [`symbols`] and series in their usual form (labels, samples, nothing else)
/// into an empty batch, and the label fields of the series into `labels`, back to back as they stand. False if it is
/// anything else; the batch is then of no use.
///
/// The series of the batch have no names yet. Requests of equal symbols and equal `labels` are about the same series in
/// the same order: a label field says where it ends. What makes [`v2::decode`](super::v2::decode) leave out a series
/// is in the symbols or in the labels too.
pub fn samples(body: &[u8], batch: &mut AppendBatch<'_>, labels: &mut Vec<u8>) -> bool {
    labels.clear();
    let mut reader = Reader::new(body, "request");
    reader.pass_to(symbols(body).len());
    let room = (body.len() - reader.at()) / USUAL_SERIES_BYTES;
    batch.series.reserve(room);
    batch.samples.reserve(room);
    while let Some((content, next)) = reader.peek_short(SERIES_TAG) {
        let first = batch.samples.len() as u32;
        let Some((field, rest)) = label_field(content) else { return false };
        if take_samples(rest, &mut batch.samples).is_none() {
            return false;
        }
        labels.extend_from_slice(field);
        batch.series.push(BatchSeries {
            key: SeriesKey::Symbols(&[]),
            samples: first..batch.samples.len() as u32,
            histograms: 0..0,
            exemplars: 0..0,
        });
        reader.pass_to(next);
    }
    reader.is_done()
}

/// The field of label numbers, of up to 127 bytes, with which a series begins, and what follows.
#[inline]
fn label_field(content: &[u8]) -> Option<(&[u8], &[u8])> {
    let &[tag, length, ..] = content else { return None };
    (tag == 1 << 3 | BYTES && length < 0x80)
        .then(|| content.split_at_checked(2 + usize::from(length)))
        .flatten()
}

/// Appends the samples behind the labels of a series in its usual form: one at least, none with a start timestamp.
#[inline]
pub(super) fn take_samples(bytes: &[u8], samples: &mut Vec<Sample>) -> Option<()> {
    let mut rest = bytes;
    while let Some(((value, timestamp), behind)) = double_and_integer(rest, 2 << 3 | BYTES) {
        samples.push(Sample { timestamp: timestamp.cast_signed(), value, start_timestamp: 0 });
        rest = behind;
    }
    (rest.len() < bytes.len() && (rest.is_empty() || rest == NO_METADATA)).then_some(())
}
