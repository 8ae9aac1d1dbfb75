//! The one place that calls the YAML library: text to typed value, errors with file, line, column and cure.

use serde::de::DeserializeOwned;

/// A fault in a YAML text, as a person needs it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_name}:{line}:{column}: {message}")]
pub struct YamlError {
    /// File that was read.
    pub source_name: String,
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// What was expected, what was seen, what was probably meant.
    pub message: String,
}

/// Reads one document. Unknown keys are errors where the type says `deny_unknown_fields`.
///
/// # Errors
/// With the place in `text`, and a near name where an unknown key or value has one.
pub fn read<T: DeserializeOwned>(_source_name: &str, _text: &str) -> Result<T, YamlError> {
    todo!()
}
