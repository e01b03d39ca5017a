//! The log of the open tables: what survives the end of the process before a table is sealed.
//!
//! Each table has a directory, `<table number, 16 hex digits>/`, with a file of series definitions
//! (`defs`) and segments (`00000001.seg` ...) of frames; docs/format.md has every byte. A request is
//! acknowledged when its frame was written, and survives a power loss once that was synced.

#[cfg(test)]
pub(crate) mod faulty;
pub mod frame;
pub mod fs;
pub mod histogram;
pub mod reader;
pub mod record;
pub mod syncer;
pub mod writer;
