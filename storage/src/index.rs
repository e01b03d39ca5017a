//! The inverted index: which series have which labels. Written once per block, read through
//! [`matching::IndexReader`], which open tables implement over their own maps.
//!
//! Records and their bytes are in docs/format.md, sections symbols, values, series and postings.

pub mod matching;
pub mod postings;
pub mod series;
pub mod symbols;
pub mod values;
pub(crate) mod varint;
pub mod writer;

pub use matching::{IndexReader, resolve};
pub use postings::Postings;
pub use writer::{IndexSummary, IndexWriter};
