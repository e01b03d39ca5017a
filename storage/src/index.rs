//! The inverted index: which series have which labels. Written once per block, read through
//! [`matching::IndexReader`], which open tables implement over their own maps.
//!
//! Records and their bytes are in docs/format.md, sections symbols, values, series and postings.

pub mod matching;
pub mod postings;
pub mod reader;
pub mod series;
pub mod symbols;
pub mod values;
pub(crate) mod varint;
pub mod writer;

#[cfg(test)]
mod tests;

pub use matching::{IndexReader, resolve};
pub use postings::Postings;
pub use reader::BlockIndex;
pub use writer::{IndexSummary, IndexWriter};
