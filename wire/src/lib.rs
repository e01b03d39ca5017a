//! The formats that strangers send: remote write and the formats of scrapes.
//!
//! Everything here works on bytes that are already in memory. There is no I/O, no clock and no
//! storage, so that fuzz targets and load generators use it alone. Whatever the bytes are, decoding
//! ends in a value or an error that names the place; it never panics.

pub mod exposition;
mod protobuf;
pub mod remote_write;
