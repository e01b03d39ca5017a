//! Blocks: immutable, self-describing, time-partitioned sets of chunks with their own index.

pub mod compaction;
pub mod content;
pub mod header;
pub mod merge;
pub mod quarantine;
pub mod reader;
pub mod side;
pub mod source;
pub mod tiles;
pub mod tombstones;
pub mod writer;
