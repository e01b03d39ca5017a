//! Blocks: immutable, self-describing, time-partitioned sets of chunks with their own index.

pub mod source;
