//! One file a subcommand.

pub(crate) mod evaluate;
pub(crate) mod example;
pub(crate) mod export;
pub(crate) mod train;
