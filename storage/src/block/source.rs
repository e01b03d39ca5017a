//! What a block is written from: a frozen table, or a merge of other blocks.

use crate::error::StorageError;
use crate::part::RunBuffer;
use chronolith_model::append::{Exemplar, Metadata};

/// Series in block order (metric name, then label by label as bytes), each once, read once.
pub trait BlockSource {
    /// Every string that labels of the source use, sorted as bytes, each once. Labels refer to them by
    /// position. Called once, first.
    ///
    /// # Errors
    /// [`StorageError`] if the source cannot be read.
    fn symbols(&mut self) -> Result<Vec<Box<str>>, StorageError>;

    /// The next series into `series` (cleared first); false at the end.
    ///
    /// # Errors
    /// [`StorageError`] if the source cannot be read.
    fn next_series(&mut self, series: &mut SourceSeries) -> Result<bool, StorageError>;

    /// Metadata by metric family name, sorted by name. Called last.
    ///
    /// # Errors
    /// [`StorageError`] if the source cannot be read.
    fn metadata(&mut self) -> Result<Vec<(String, Vec<Metadata>)>, StorageError>;
}

/// One series on its way into a block.
#[derive(Debug, Default)]
pub struct SourceSeries {
    /// Numbers of name and value in the source's symbols, sorted by name.
    pub labels: Vec<(u32, u32)>,
    /// Its samples: runs in time order, strictly ascending over all runs, all with `series` 0. A run
    /// may be of any length and reach over any boundary: the writer cuts chunks.
    pub samples: RunBuffer,
    /// By time.
    pub exemplars: Vec<Exemplar>,
}

impl SourceSeries {
    /// Empties the series and keeps its buffers.
    pub fn clear(&mut self) {
        self.labels.clear();
        self.samples.clear();
        self.exemplars.clear();
    }
}
