//! Formats that strangers send: exposition text, OpenMetrics and remote write. No I/O.
