//! Tables of texts and what becomes of them.
