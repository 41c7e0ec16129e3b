//! Customer tickets with the right way to work them.
//!
//! A ticket is an entry of the hand-written bank, filled from a shop. An episode is a ticket with every decision
//! that a perfect agent takes, where each observation is what the tool really answered. Traces for the model are
//! made of episodes of the training split; the example's goals are tickets of the held-out split.

mod bank;
mod case;
mod episodes;
mod example;
mod fill;
mod goals;
mod oracle;
mod truth;
mod wording;

pub use bank::{Bank, Entry, Intent, Split};
pub use case::{Case, Pools, Ticket};
pub use episodes::{Episode, EpisodeStep, Episodes, episodes, work};
pub use example::{
    DATABASE_FILE, EXAMPLE_GOALS, EXAMPLE_SEED, GOALS_FILE, example, goal_lines, write_example,
};
pub use goals::{ExampleGoal, example_goals};
pub use truth::truth;
