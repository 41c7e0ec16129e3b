//! What a ticket meets in the shop: which order, which account.

use crate::shop::{Customer, Dice, Order, State, World};

use super::bank::{Entry, Intent};

/// What the agent will find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Case {
    /// An order is needed and the ticket names none.
    NoNumber,
    /// An order of the writer's in this state.
    Own(State),
    /// A number that no order has.
    Unknown,
    /// An order of somebody else.
    Foreign,
    /// The writer has an account.
    Account,
    /// The writer has no account.
    NoAccount,
    /// Nothing in the shop matters.
    #[default]
    Plain,
}

impl Case {
    /// Its name in goals and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoNumber => "no_number",
            Self::Own(State::Processing) => "processing",
            Self::Own(State::Shipped) => "shipped",
            Self::Own(State::DeliveredLately) => "delivered_lately",
            Self::Own(State::DeliveredLongAgo) => "delivered_long_ago",
            Self::Own(State::Refunded) => "refunded",
            Self::Own(State::Cancelled) => "cancelled",
            Self::Unknown => "unknown_order",
            Self::Foreign => "foreign_order",
            Self::Account => "account",
            Self::NoAccount => "no_account",
            Self::Plain => "plain",
        }
    }

    /// Draws the case for an entry: mostly what such a ticket is about, sometimes what it should not be about.
    pub fn draw(entry: &Entry, dice: &mut Dice) -> Self {
        use State::{Cancelled, DeliveredLately, DeliveredLongAgo, Processing, Refunded, Shipped};

        // Per cent of: processing, shipped, delivered lately, delivered long ago, refunded, cancelled; the rest is
        // half unknown, half foreign.
        let shares = match entry.intent {
            Intent::PasswordReset => {
                return dice.pick_weighted(&[(Self::Account, 85), (Self::NoAccount, 15)]);
            }
            intent if !intent.needs_order() => return Self::Plain,
            _ if !entry.names_order() => return Self::NoNumber,
            Intent::OrderStatus => [22, 48, 9, 3, 3, 5],
            Intent::NotReceived | Intent::DamagedItem | Intent::WrongItem => [0, 0, 76, 10, 0, 0],
            Intent::CancelOrder => [55, 16, 7, 2, 2, 8],
            Intent::ChangeAddress => [58, 20, 6, 2, 0, 4],
            Intent::InvoiceRequest => [10, 10, 40, 24, 2, 0],
            Intent::RefundStatus => [2, 4, 14, 5, 60, 5],
            _ => [7, 7, 45, 16, 9, 7],
        };
        let states = [Processing, Shipped, DeliveredLately, DeliveredLongAgo, Refunded, Cancelled];
        let rest = 100_usize.saturating_sub(shares.iter().sum());
        let mut cases: Vec<(Self, usize)> = states.map(Self::Own).into_iter().zip(shares).collect();
        cases.extend([(Self::Unknown, rest / 2), (Self::Foreign, rest - rest / 2)]);
        dice.pick_weighted(&cases)
    }
}

/// A ticket's facts: who writes about what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The entry of the bank.
    pub entry: Entry,
    /// What it meets.
    pub case: Case,
    /// Who writes.
    pub writer: Customer,
    /// The number that the ticket names.
    pub number: Option<u32>,
    /// The order that the writer has in mind: the one of the number where it is the writer's.
    pub order: Order,
    /// The words as sent.
    pub text: String,
}

/// The orders of a shop that no ticket has taken yet. Every ticket takes its own, so that what one agent changes
/// is nothing to another.
#[derive(Debug, Clone)]
pub struct Pools {
    by_state: [Vec<usize>; 6],
}

impl Pools {
    /// All orders, in an order that chance gives.
    pub fn new(world: &World, dice: &mut Dice) -> Self {
        let mut by_state = State::ALL.map(|state| {
            let of_state = |(place, order): (usize, &Order)| (order.state == state).then_some(place);
            world.orders.iter().enumerate().filter_map(of_state).collect::<Vec<usize>>()
        });
        for pool in &mut by_state {
            dice.shuffle(pool);
        }
        Self { by_state }
    }

    fn take<'a>(&mut self, world: &'a World, state: State) -> Option<&'a Order> {
        let pool = State::ALL.iter().position(|of| *of == state)?;
        world.orders.get(self.by_state.get_mut(pool)?.pop()?)
    }

    /// Makes the ticket for `entry` and `case`, without its words. `None` where the shop has no order left for it.
    pub fn ticket(&mut self, world: &World, entry: &Entry, case: Case, dice: &mut Dice) -> Option<Ticket> {
        let any_order = |dice: &mut Dice| world.orders.get(dice.below(world.orders.len()));
        let buyer = |order: &Order| world.customers.get(order.buyer).cloned();
        let (order, writer, number) = match case {
            Case::Own(state) => {
                let order = self.take(world, state)?;
                (order, buyer(order)?, Some(order.number))
            }
            Case::Foreign => {
                let theirs = self.take(world, dice.pick(&State::ALL))?;
                let own = std::iter::repeat_with(|| any_order(dice))
                    .take(world.orders.len())
                    .flatten()
                    .find(|order| order.buyer != theirs.buyer)?;
                (own, buyer(own)?, Some(theirs.number))
            }
            Case::Unknown => {
                let order = any_order(dice)?;
                let number = world.free_numbers.get(dice.below(world.free_numbers.len()))?;
                (order, buyer(order)?, Some(*number))
            }
            Case::NoAccount => {
                let stranger = world.strangers.get(dice.below(world.strangers.len()))?;
                (any_order(dice)?, stranger.clone(), None)
            }
            Case::NoNumber | Case::Account | Case::Plain => {
                let order = any_order(dice)?;
                (order, buyer(order)?, None)
            }
        };
        Some(Ticket { entry: entry.clone(), case, writer, number, order: order.clone(), text: String::new() })
    }
}
