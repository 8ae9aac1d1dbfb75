//! Tests of the decision. An "ask" is a connection or request in one line, see [`ask`].

mod ask;
mod cost;
mod fields;
mod goldens;
mod model;
mod scope;
mod zero_trust;
