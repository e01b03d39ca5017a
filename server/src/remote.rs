//! Remote protocols: receiving remote write.

pub mod known;
pub mod receiver;
