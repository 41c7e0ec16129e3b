//! A made-up web shop: who bought what and where it is, all from a seed.
//!
//! The same shop serves the example and the traces that the model learns from, so that what a tool answers in
//! training is what it answers at work.

mod desk;
mod dice;
mod names;
mod store;
mod world;

pub use desk::{Desk, KindSheet, Sheets};
pub use dice::Dice;
pub use store::{dump, write_store};
pub use world::{CUSTOMERS_MIN, Customer, ORDERS_MAX, ORDERS_MIN, Order, Shipment, State, World, today};
