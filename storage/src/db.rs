//! The store as the server sees it.

pub mod ballast;
pub mod directory;
pub mod ids;
#[cfg(feature = "engine")]
pub mod recover;
