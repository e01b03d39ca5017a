//! Chunks: encoded samples of one series. The appending form of open tables, the sealed columns of
//! blocks, and tiles, which hold the chunks of neighbouring series under one key.
//!
//! Nothing here knows of keys, files or indexes. All decoders take bytes that anybody may have
//! damaged: they return errors, never panic, and allocate no more than the sample count asks for.

pub mod open;
