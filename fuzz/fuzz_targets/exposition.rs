//! Scrape bodies in both text formats: every body ends in entries or in an error with a line, and a
//! series that is named by the same bytes has the same labels.
#![no_main]

use chronolith_wire::exposition::{Entry, Format, Parser};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
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
