//! Limits of reading text and records.

/// Limits for reading text and records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextOptions {
    /// How much is read at once, in bytes. Default 2 MiB.
    pub piece_bytes: usize,
    /// Longest line, in bytes. Default 64 MiB.
    pub line_bytes_max: usize,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self {
            piece_bytes: 2 << 20,
            line_bytes_max: 64 << 20,
        }
    }
}
