//! Tells what is wrong, why, and what to do about it: an anomaly in, a diagnosis out.
//!
//! [`Rules`] answer at once and always, and say how sure they are. Where they are not, a model may be asked: this
//! crate says what, and reads what it answers, but asks nobody. It does no IO, reads no clock, draws no chance, and
//! knows the system only through its events.

pub mod history;
pub mod opinion;
pub mod question;
pub mod rules;
pub mod symptom;

pub use history::History;
pub use opinion::{Choice, DIAGNOSED_BY_CACHE, DIAGNOSED_BY_MODEL, Heard, Opinion, Opinions, Unreadable};
pub use question::Question;
pub use rules::{DIAGNOSED_BY, Rules};
pub use symptom::Symptom;
