//! Comments of the contracts as text for readers.

use crate::generate::Result;
use prost_reflect::FileDescriptor;
use serde_json::Value as Json;

/// What a comment says, and the example in its line `Example: {...}`.
#[derive(Default)]
pub struct Comment {
    /// The text, one line a paragraph.
    pub text: String,
    /// The example.
    pub example: Option<Json>,
}

impl Comment {
    /// Reads the comment before the element at `path` of a file.
    pub fn read(file: &FileDescriptor, path: &[i32]) -> Result<Self> {
        let proto = file.file_descriptor_proto();
        let locations = proto.source_code_info.iter().flat_map(|info| &info.location);
        let raw = locations.filter(|l| l.path == path).find_map(|l| l.leading_comments.clone()).unwrap_or_default();
        let mut comment = Self::default();
        for line in raw.lines().map(str::trim) {
            if let Some(example) = line.strip_prefix("Example:") {
                let json = serde_json::from_str(example).map_err(|e| format!("{}: `{line}` is not JSON: {e}", file.name()))?;
                comment.example = Some(json);
            } else if line.is_empty() {
                comment.text.push('\n');
            } else {
                let glue = if comment.text.is_empty() || comment.text.ends_with('\n') { "" } else { " " };
                comment.text += glue;
                comment.text += line;
            }
        }
        comment.text = comment.text.trim().to_owned();
        Ok(comment)
    }

    /// The first sentence, without its full stop.
    pub fn summary(&self) -> &str {
        let end = self.text.find(". ").or_else(|| self.text.find('\n')).unwrap_or(self.text.len());
        self.text[..end].trim_end_matches('.')
    }
}
