//! Remote protocols: receiving remote write.

pub mod receiver;
