//! Reading files of the log, frame by frame. Files are read with `pread` in pieces of a megabyte and
//! not mapped: a bad sector under a mapping is a signal, not an error.

use super::frame::{FileHeader, FrameHeader, FrameKind, Parsed, decompress, parse_frame};
use super::fs::{LogFile, LogFs};
use crate::error::StorageError;
use std::path::{Path, PathBuf};

const PIECE_BYTES: usize = 1 << 20;

/// What comes next in a file.
pub enum Next {
    /// A good frame; the body is decompressed.
    Frame(FrameHeader, Vec<u8>),
    /// The file ends here.
    End,
    /// No frame: what is wrong. The reader stays where it is.
    Bad(String),
    /// The system gives an error instead of bytes, so nothing is known of them.
    Unreadable(std::io::Error),
}

/// A file of the log.
pub struct LogReader {
    path: PathBuf,
    file: Box<dyn LogFile>,
    size_bytes: u64,
    buffer: Vec<u8>,
    /// Offset of the buffer in the file.
    buffer_at: u64,
    /// Bytes of the buffer that are done.
    used: usize,
}

impl LogReader {
    /// Opens a file.
    ///
    /// # Errors
    /// [`StorageError::Io`] if it cannot be opened.
    pub fn open(fs: &dyn LogFs, path: &Path) -> Result<Self, StorageError> {
        let fail = |source| StorageError::Io { operation: "open", path: path.to_owned(), source };
        let file = fs.open(path).map_err(fail)?;
        let size_bytes = file.size_bytes().map_err(fail)?;
        Ok(Self { path: path.to_owned(), file, size_bytes, buffer: Vec::new(), buffer_at: 0, used: 0 })
    }

    /// Where the next frame begins.
    pub const fn offset(&self) -> u64 {
        self.buffer_at + self.used as u64
    }

    /// Goes to an offset.
    pub fn seek(&mut self, offset: u64) {
        self.buffer.clear();
        (self.buffer_at, self.used) = (offset, 0);
    }

    /// Length of the file.
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The first frame of a file.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if the file does not begin with the header of this version.
    pub fn read_file_header(&mut self) -> Result<(u64, FileHeader), StorageError> {
        let path = self.path.display().to_string();
        match self.next_frame() {
            Next::Frame(frame, body) if frame.kind == FrameKind::FileHeader => {
                Ok((frame.table, FileHeader::decode(&body, &path)?))
            }
            Next::Frame(..) => Err(StorageError::corrupt(path, "the file does not begin with its header")),
            Next::End => Err(StorageError::corrupt(path, "the file is empty")),
            Next::Bad(reason) => Err(StorageError::corrupt(path, reason)),
            Next::Unreadable(source) => {
                Err(StorageError::Io { operation: "read", path: self.path.clone(), source })
            }
        }
    }

    /// The next frame. After `Bad` the same place would be read again.
    pub fn next_frame(&mut self) -> Next {
        let mut needed = 1;
        loop {
            if let Err(error) = self.fill(needed) {
                return Next::Unreadable(error);
            }
            let bytes = &self.buffer[self.used..];
            if bytes.is_empty() {
                return Next::End;
            }
            match parse_frame(bytes) {
                Parsed::Frame { header, body, length } => {
                    let raw = match header.kind {
                        FrameKind::FileHeader => Ok(body.to_vec()),
                        _ => decompress(body),
                    };
                    return match raw {
                        Ok(raw) => {
                            self.used += length;
                            Next::Frame(header, raw)
                        }
                        Err(reason) => Next::Bad(reason.to_owned()),
                    };
                }
                Parsed::NeedBytes(count) if self.offset() + count as u64 <= self.size_bytes => {
                    needed = count;
                }
                Parsed::NeedBytes(_) => return Next::Bad("the file ends within a frame".to_owned()),
                Parsed::Bad(reason) => return Next::Bad(reason.to_owned()),
            }
        }
    }

    /// Moves to the next place behind this one where a good frame begins; whether there is one.
    pub fn skip_to_frame(&mut self) -> bool {
        loop {
            self.used += 1;
            if self.fill(4).is_err() {
                return false;
            }
            let bytes = &self.buffer[self.used..];
            let Some(at) = bytes.windows(4).position(|window| window == super::frame::MAGIC) else {
                if self.buffer_at + self.buffer.len() as u64 >= self.size_bytes {
                    return false;
                }
                // A magic number may lie across the end of the buffer.
                self.used = self.buffer.len().saturating_sub(4).max(self.used);
                continue;
            };
            self.used += at;
            let (buffer_at, used) = (self.buffer_at, self.used);
            let is_frame = matches!(self.next_frame(), Next::Frame(..));
            // Reading may have moved the buffer, never the place in the file.
            self.used = (buffer_at + used as u64).saturating_sub(self.buffer_at) as usize;
            if is_frame {
                return true;
            }
        }
    }

    /// Has at least `needed` bytes in the buffer, or all there are.
    fn fill(&mut self, needed: usize) -> std::io::Result<()> {
        if self.buffer.len() - self.used.min(self.buffer.len()) >= needed {
            return Ok(());
        }
        let offset = self.offset();
        let left = self.size_bytes.saturating_sub(offset);
        let wanted = (needed.max(PIECE_BYTES) as u64).min(left) as usize;
        let mut piece = vec![0; wanted];
        let count = self.file.read_at(&mut piece, offset)?;
        piece.truncate(count);
        self.buffer = piece;
        self.buffer_at = offset;
        self.used = 0;
        Ok(())
    }

    /// All bytes from here to the end of the file.
    ///
    /// # Errors
    /// What the system says.
    pub fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let offset = self.offset();
        let mut bytes = vec![0; self.size_bytes.saturating_sub(offset) as usize];
        let count = self.file.read_at(&mut bytes, offset)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Cuts the file where the next frame would begin.
    ///
    /// # Errors
    /// What the system says.
    pub fn cut(&self) -> std::io::Result<()> {
        self.file.truncate(self.offset())
    }
}
