//! The suite that every log passes, whatever lies below it.
//!
//! A crate with a log of its own turns on the feature `conformance`, implements [`Harness`] for it and calls
//! [`run_all`] from a test. A check that fails panics with what was promised.

mod appending;
mod reading;
mod reopening;
mod support;

use std::sync::Arc;

use crate::log::EventLog;

/// One log under test, with whatever it needs to stay alive.
pub trait Harness {
    /// The log as it is open now.
    fn log(&self) -> Arc<dyn EventLog>;

    /// Closes the log and opens it again, as a process does that ends and is started again.
    fn reopen(&mut self);

    /// Stops the log without a word to it, as a process does that is killed, and opens it again.
    ///
    /// What was acknowledged has to be there after. A log that cannot be stopped so in one process closes instead.
    fn crash(&mut self) {
        self.reopen();
    }

    /// The most bytes that one append may have.
    fn append_bytes_max(&self) -> usize;

    /// Whether offsets and LSNs have to count from 0 without a gap. See [the contract](crate::log).
    fn is_dense(&self) -> bool {
        true
    }
}

/// One named promise.
pub struct Check {
    /// What is promised.
    pub name: &'static str,
    /// Panics where the promise is broken. Gets an empty log.
    pub run: fn(&mut dyn Harness),
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! checks {
    ($($module:ident :: $name:ident,)*) => {
        /// Every check, in the order in which [`run_all`] runs them.
        pub const CHECKS: &[Check] = &[$(Check { name: stringify!($name), run: $module::$name },)*];
    };
}

checks! {
    appending::records_come_back_as_they_were_appended,
    appending::offsets_grow_in_each_partition,
    appending::an_empty_append_waits_for_those_before_it,
    appending::appends_are_acknowledged_in_order,
    appending::an_append_of_one_writer_is_never_mixed_with_another,
    appending::concurrent_appenders_get_every_offset_once,
    appending::a_big_record_comes_back_whole,
    appending::an_append_that_is_too_big_is_refused_and_harms_nothing,
    appending::a_closed_log_refuses_appends_and_still_reads,
    appending::an_appender_that_panics_harms_nobody_else,
    reading::reads_are_bounded_by_records_and_by_bytes,
    reading::a_read_at_the_end_is_empty,
    reading::replay_goes_over_all_topics_in_the_order_of_commit,
    reading::replay_stops_where_it_is_told,
    reading::readers_see_a_prefix_while_others_write,
    reading::a_watcher_is_woken_by_the_next_commit,
    reading::a_watcher_is_let_go_when_time_is_over_or_the_log_closes,
    reopening::everything_acknowledged_is_there_after_reopening,
    reopening::offsets_go_on_after_reopening,
    reopening::records_and_positions_survive_together,
    reopening::the_last_position_stored_holds,
    reopening::a_log_that_was_never_written_reopens_empty,
}

/// Runs every check, each on a fresh log from `make`.
pub fn run_all(make: impl Fn() -> Box<dyn Harness>) {
    for check in CHECKS {
        let mut harness = make();
        (check.run)(harness.as_mut());
    }
}
