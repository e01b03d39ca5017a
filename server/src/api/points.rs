//! Points of series as JSON: `[1795369335.500,"1.5"]`. They are most of what a server prints, so they are put together
//! in room that is made for many at once, by copies of constant length.

use super::json;
use chronolith_query::go_format::{JSON_FLOAT_ROOM, json_float};

/// The steps of a query: samples stand at them.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    /// Of the first one, in milliseconds.
    pub start: i64,
    /// Milliseconds between them.
    pub interval: i64,
    /// How many.
    pub n: usize,
}

/// The longest time has a bracket, a sign, 16 digits, a point and three digits, a comma and a quote.
const TIME_BYTES: usize = 24;

/// The start of a point, `[1795369335.500,"`; empty as long as nobody has asked for it.
#[derive(Clone, Copy, Debug, Default)]
struct TimeText {
    text: [u8; TIME_BYTES],
    length: u8,
}

impl TimeText {
    fn new(time: i64) -> Self {
        let mut text = vec![b'['];
        json::timestamp(&mut text, time);
        text.extend_from_slice(b",\"");
        let mut new = Self { length: text.len() as u8, ..Self::default() };
        new.text[..text.len()].copy_from_slice(&text);
        new
    }
}

/// The starts of points. Those at steps are made once, and copied for all series.
#[derive(Debug)]
pub struct TimeTexts {
    steps: Steps,
    texts: Vec<TimeText>,
    elsewhere: Elsewhere,
}

impl TimeTexts {
    /// None is made yet.
    pub fn new(steps: Steps) -> Self {
        Self { steps, texts: Vec::new(), elsewhere: Elsewhere::default() }
    }

    /// The start of a point at `time`; `step` is where it is expected, and becomes the one after it.
    #[inline]
    fn text(&mut self, step: &mut usize, time: i64) -> &TimeText {
        let Steps { start, interval, n } = self.steps;
        let time_of = |step: usize| start.wrapping_add(interval.wrapping_mul(step as i64));
        if time_of(*step) != time {
            // Where range selectors were asked for there is one step, and points lie anywhere.
            let at = || usize::try_from((time.wrapping_sub(start)) / interval.max(1)).unwrap_or(n);
            *step = if n > 1 { at() } else { 0 };
        }
        if *step >= n || time_of(*step) != time {
            return self.elsewhere.text(time);
        }
        if self.texts.len() <= *step {
            self.texts.resize((2 * self.texts.len()).clamp(*step + 1, n), TimeText::default());
        }
        let text = &mut self.texts[*step];
        *step += 1;
        if text.length == 0 {
            *text = TimeText::new(time);
        }
        text
    }
}

/// The start of the point before that was at no step. Times of a series mostly differ in their last digits alone.
#[derive(Debug, Default)]
struct Elsewhere {
    text: TimeText,
    /// All but the last seven digits of the milliseconds, and where these seven begin; 0 if nothing is known.
    high: u64,
    low_at: usize,
}

impl Elsewhere {
    fn text(&mut self, time: i64) -> &TimeText {
        const LOW: u64 = 10_000_000;
        let (high, low) = (time.unsigned_abs() / LOW, (time.unsigned_abs() % LOW) as u32);
        if time < 0 || high == 0 {
            self.high = 0;
            self.text = TimeText::new(time);
            return &self.text;
        }
        if high != self.high {
            self.high = high;
            self.text.text[0] = b'[';
            let mut buffer = itoa::Buffer::new();
            let digits = buffer.format(high).as_bytes();
            self.low_at = 1 + digits.len();
            self.text.text[1..self.low_at].copy_from_slice(digits);
        }
        let digit = |divisor: u32| b'0' + (low / divisor % 10) as u8;
        let seconds = [digit(1_000_000), digit(100_000), digit(10_000), digit(1000)];
        let fraction = [digit(100), digit(10), digit(1)];
        let end: [u8; 10] = match (seconds, fraction) {
            ([a, b, c, d], [b'0', b'0', b'0']) => [a, b, c, d, b',', b'"', 0, 0, 0, 0],
            ([a, b, c, d], [e, f, g]) => [a, b, c, d, b'.', e, f, g, b',', b'"'],
        };
        self.text.text[self.low_at..self.low_at + end.len()].copy_from_slice(&end);
        let whole = fraction == [b'0'; 3];
        self.text.length = (self.low_at + if whole { end.len() - 4 } else { end.len() }) as u8;
        &self.text
    }
}

/// Room for a point and the comma behind it: the start, a value, a quote, a bracket and the comma.
const POINT_ROOM: usize = 64;
/// What follows a value.
const END: &[u8; 3] = b"\"],";
const _: () = assert!(TIME_BYTES + JSON_FLOAT_ROOM + END.len() <= POINT_ROOM);

/// Points that are written at once.
const RUN: usize = 64;

/// Where the list of a series is.
#[derive(Debug, Default)]
pub struct Points {
    /// The step that is expected next.
    step: usize,
}

impl Points {
    /// Writes some of the points that are left, separated by commas. There must be one.
    pub fn write(
        &mut self,
        out: &mut Vec<u8>,
        points: &mut impl ExactSizeIterator<Item = (i64, f64)>,
        times: &mut TimeTexts,
    ) {
        let n = points.len().min(RUN);
        let mut at = out.len();
        out.resize(at + n * POINT_ROOM, 0);
        // Bits of the value before, and where its text is: many do not change from step to step. From the second time on
        // the text is copied from elsewhere, as it takes a while until what was just written can be read at once.
        let (mut last, mut last_at, mut length) = (0, 0, 0);
        let mut kept: Option<[u8; JSON_FLOAT_ROOM]> = None;
        for (time, value) in points.take(n) {
            let start = times.text(&mut self.step, time);
            out[at..at + TIME_BYTES].copy_from_slice(&start.text);
            let value_at = at + usize::from(start.length);
            if last == value.to_bits() && length > 0 {
                let text = kept
                    .get_or_insert_with(|| out[last_at..][..JSON_FLOAT_ROOM].try_into().expect("as long"));
                out[value_at..value_at + JSON_FLOAT_ROOM].copy_from_slice(text);
            } else {
                let room = out[value_at..].first_chunk_mut().expect("a point has room for a value");
                length = json_float(room, value);
                (last, last_at, kept) = (value.to_bits(), value_at, None);
            }
            at = value_at + length + END.len();
            out[value_at + length..at].copy_from_slice(END);
        }
        out.truncate(at - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chronolith_query::go_format::write_json_float;
    use proptest::prelude::*;

    fn written(points: &[(i64, f64)], steps: Steps) -> String {
        let (mut out, mut list) = (Vec::new(), Points::default());
        let mut times = TimeTexts::new(steps);
        let mut left = points.iter().copied();
        while left.len() > 0 {
            if !out.is_empty() {
                out.push(b',');
            }
            list.write(&mut out, &mut left, &mut times);
        }
        String::from_utf8(out).unwrap()
    }

    /// Piece by piece.
    fn expected(points: &[(i64, f64)]) -> String {
        let mut out = Vec::new();
        for &(time, value) in points {
            if !out.is_empty() {
                out.push(b',');
            }
            out.push(b'[');
            json::timestamp(&mut out, time);
            out.extend_from_slice(b",\"");
            write_json_float(&mut out, value);
            out.extend_from_slice(b"\"]");
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_longest_points_have_room() {
        let times = [i64::MIN, i64::MIN + 1, i64::MAX, -1, 0, 1, 9_999_999, 10_000_000, 10_000_001];
        let values = [-1.234_567_890_123_456_7e-6, -1.797_693_134_862_315_7e308, -1.234_567_890_123_456_7e20];
        let points: Vec<_> = times.iter().flat_map(|&time| values.map(|value| (time, value))).collect();
        let steps = Steps { start: 0, interval: 1, n: 1 };
        assert_eq!(written(&points, steps), expected(&points));
    }

    #[test]
    fn times_have_the_same_text_whether_they_are_steps_or_not() {
        let times = [1000, 1500, 2500, 1000, 1001, -250, -249, 50_500, 51_000, i64::MIN, i64::MAX, 0];
        let points = times.map(|time| (time, 1.0));
        for steps in [
            Steps { start: 1000, interval: 500, n: 100 },
            Steps { start: -250, interval: 1, n: 11_000 },
            Steps { start: i64::MIN, interval: 0, n: 1 },
        ] {
            assert_eq!(written(&points, steps), expected(&points), "{steps:?}");
        }
    }

    proptest! {
        #[test]
        fn points_are_those_of_one_by_one(
            start in prop_oneof![Just(0_i64), 1_700_000_000_000..1_800_000_000_000_i64, any::<i64>()],
            steps_of in prop::collection::vec(
                prop_oneof![Just(500_i64), Just(1000), 0..20_000_000_i64, any::<i64>()], 0..200),
            values in prop::collection::vec(
                prop_oneof![Just(0.0), Just(1.5), any::<i32>().prop_map(f64::from), any::<f64>()], 1..50),
            interval in prop_oneof![Just(500_i64), Just(1000), 1..5000_i64],
            n in 1..300_usize,
        ) {
            let mut time = start;
            let points: Vec<_> = steps_of.iter().zip(values.iter().cycle()).map(|(&step, &value)| {
                time = time.wrapping_add(step);
                (time, value)
            }).collect();
            let steps = Steps { start, interval, n };
            prop_assert_eq!(written(&points, steps), expected(&points));
        }
    }
}
