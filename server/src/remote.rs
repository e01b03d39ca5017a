//! Remote protocols: receiving remote write.

pub mod direct;
pub mod known;
pub mod receiver;
