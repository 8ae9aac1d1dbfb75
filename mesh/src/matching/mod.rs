//! Of many selectors, texts or ranges those that match something, found without trying each.
//!
//! `labels` is for selectors and what they pick, `texts` for the patterns of policies and routes, `ranges` for
//! addresses. What a match means is said by those who ask.

pub(crate) mod labels;
pub(crate) mod ranges;
pub(crate) mod texts;
