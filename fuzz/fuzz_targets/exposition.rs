//! Scrape bodies in both text formats and in protobuf: every body ends in entries or in an error with a
//! line, a series that is named by the same bytes has the same labels, and histograms are valid.
#![no_main]

use chronolith_wire::exposition::protobuf::{
    self, Family, Histograms, Point, PointValue, ProtobufError, Sink,
};
use chronolith_wire::exposition::{Entry, Format, Parser};
use libfuzzer_sys::fuzz_target;

struct Checks;

impl Sink for Checks {
    type Error = ProtobufError;

    fn family(&mut self, family: &Family<'_>) -> Result<(), ProtobufError> {
        assert!(!family.name.is_empty());
        Ok(())
    }

    fn point(&mut self, _: &Family<'_>, point: Point<'_>) -> Result<(), ProtobufError> {
        assert_eq!(protobuf::labels(point.raw).ok(), protobuf::labels(point.raw).ok());
        if let PointValue::Histogram(histogram) = point.value {
            assert_eq!(histogram.validate(), Ok(()));
        }
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    for (native, classic_too, convert_classic) in
        [(false, false, false), (true, true, false), (true, false, true), (false, true, true)]
    {
        let histograms = Histograms { native, classic_too, convert_classic };
        let _ = protobuf::decode(data, histograms, &mut Checks);
    }
    for format in [Format::Text, Format::OpenMetrics] {
        let mut parser = Parser::new(data, format);
        let mut entries = 0;
        loop {
            match parser.next_entry() {
                Ok(Some(Entry::Series(series))) => {
                    assert_eq!(series.labels().ok(), series.labels().ok());
                    let _ = series.exemplar(0);
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    assert!(error.line >= 1);
                    break;
                }
            }
            entries += 1;
            assert!(entries <= data.len() + 1, "an entry takes at least a byte");
        }
    }
});
