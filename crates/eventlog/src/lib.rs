//! The log trait and the embedded segment log.
