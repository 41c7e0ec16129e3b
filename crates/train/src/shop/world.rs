//! Customers and orders by seed.

use std::collections::HashSet;

use chrono::{Days, NaiveDate};

use super::dice::Dice;
use super::names::{CARRIERS, CITIES, FIRST, ITEMS, LAST, MAIL_DOMAINS, PARCEL_STATES};

/// Fewest customers of a shop.
pub const CUSTOMERS_MIN: usize = 500;

/// Fewest orders of a shop.
pub const ORDERS_MIN: usize = 2_000;

/// Most orders of a shop: order numbers have five digits, and some must stay free for numbers that are unknown.
pub const ORDERS_MAX: usize = 80_000;

const NUMBER_FIRST: u32 = 10_000;
const NUMBER_LAST: u32 = 99_999;

/// How long after delivery money is given back, in days. The refund tool enforces the same number.
const REFUND_DAYS: i64 = 30;

/// Cents that prices end in. None ends in a zero, so a price looks the same as a JSON number and in a letter.
const PRICE_ENDINGS: [i64; 9] = [95, 99, 49, 45, 25, 75, 79, 89, 19];

/// The day on which the shop stands still, so that "30 days ago" means the same in every run: 16 March 2026.
pub fn today() -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 3, 16).unwrap_or_default()
}

/// What became of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum State {
    /// Paid, not yet sent.
    #[default]
    Processing,
    /// On the way.
    Shipped,
    /// Delivered at most 30 days ago.
    DeliveredLately,
    /// Delivered more than 30 days ago.
    DeliveredLongAgo,
    /// Delivered, sent back, paid back.
    Refunded,
    /// Stopped before it was sent.
    Cancelled,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Processing,
        Self::Shipped,
        Self::DeliveredLately,
        Self::DeliveredLongAgo,
        Self::Refunded,
        Self::Cancelled,
    ];

    /// As the database says it.
    pub const fn column(self) -> &'static str {
        match self {
            Self::Processing => "processing",
            Self::Shipped => "shipped",
            Self::DeliveredLately | Self::DeliveredLongAgo => "delivered",
            Self::Refunded => "refunded",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Shares of the states in per cent. Late deliveries lead, since most goals are about them.
const STATE_SHARES: [(State, usize); 6] = [
    (State::Processing, 18),
    (State::Shipped, 20),
    (State::DeliveredLately, 30),
    (State::DeliveredLongAgo, 12),
    (State::Refunded, 11),
    (State::Cancelled, 9),
];

/// Somebody who buys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    /// The account's number.
    pub id: i64,
    /// First name.
    pub first: &'static str,
    /// Last name.
    pub last: &'static str,
    /// Lower case, unique.
    pub email: String,
    /// Town.
    pub city: &'static str,
    /// Telephone.
    pub phone: String,
}

/// A parcel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shipment {
    /// Who carries it.
    pub carrier: &'static str,
    /// What the carrier says.
    pub status: &'static str,
    /// When it is expected, where it is still on its way.
    pub eta: Option<NaiveDate>,
}

/// What somebody bought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Five digits, unique.
    pub number: u32,
    /// The place of the buyer in [`World::customers`].
    pub buyer: usize,
    /// What it is, without article.
    pub item: &'static str,
    /// What it cost, in cents.
    pub cents: i64,
    /// What became of it.
    pub state: State,
    /// The day on which it was placed.
    pub placed: NaiveDate,
    /// The day on which it was sent, if it was.
    pub shipped: Option<NaiveDate>,
    /// The day on which it was delivered, if it was.
    pub delivered: Option<NaiveDate>,
    /// The day of the refund, if there was one.
    pub refunded: Option<NaiveDate>,
    /// The day on which it was cancelled, if it was.
    pub cancelled: Option<NaiveDate>,
    /// The parcel, once it was sent.
    pub shipment: Option<Shipment>,
}

impl Order {
    /// What it cost, as tools give it.
    pub fn total(&self) -> f64 {
        self.cents as f64 / 100.0
    }
}

/// A whole shop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// What all its chance came from.
    pub seed: u64,
    /// Who buys.
    pub customers: Vec<Customer>,
    /// What was bought, in no particular order.
    pub orders: Vec<Order>,
    /// People who write but have no account.
    pub strangers: Vec<Customer>,
    /// Five-digit numbers that no order has.
    pub free_numbers: Vec<u32>,
    /// The number of the last ticket that a colleague opened.
    pub last_ticket: i64,
}

impl World {
    /// The shop of `seed` with `order_count` orders, within [`ORDERS_MIN`] and [`ORDERS_MAX`].
    pub fn generate(seed: u64, order_count: usize) -> Self {
        let order_count = order_count.clamp(ORDERS_MIN, ORDERS_MAX);
        let mut dice = Dice::new(seed, 1);
        let customer_count = CUSTOMERS_MIN.max(order_count / 4);
        let mut customers = people(&mut dice, customer_count + customer_count / 10);
        let strangers = customers.split_off(customer_count);
        let mut numbers: Vec<u32> = (NUMBER_FIRST..=NUMBER_LAST).collect();
        dice.shuffle(&mut numbers);
        let free_numbers = numbers.split_off(order_count);
        let orders = numbers.into_iter().map(|number| order(&mut dice, number, customers.len())).collect();
        let last_ticket = dice.between(1_000, 8_000);
        Self { seed, customers, orders, strangers, free_numbers, last_ticket }
    }
}

fn people(dice: &mut Dice, count: usize) -> Vec<Customer> {
    let mut ids: Vec<i64> = (1_000..1_000 + 2 * i64::try_from(count).unwrap_or_default()).collect();
    dice.shuffle(&mut ids);
    let mut taken = HashSet::new();
    let mut people = Vec::with_capacity(count);
    for id in ids.into_iter().take(count) {
        let (first, last, domain) = (dice.pick(&FIRST), dice.pick(&LAST), dice.pick(&MAIL_DOMAINS));
        let mut local = format!("{first}.{last}").to_lowercase();
        while !taken.insert(format!("{local}@{domain}")) {
            local = format!("{}.{}{}", first, last, dice.between(2, 9_999)).to_lowercase();
        }
        people.push(Customer {
            id,
            first,
            last,
            email: format!("{local}@{domain}"),
            city: dice.pick(&CITIES),
            phone: phone(dice),
        });
    }
    people
}

/// A number of the range that is kept free for fiction.
fn phone(dice: &mut Dice) -> String {
    format!("+31 20 555 01{:02}", dice.between(0, 99))
}

fn order(dice: &mut Dice, number: u32, customer_count: usize) -> Order {
    let state = dice.pick_weighted(&STATE_SHARES);
    let ago = |days: i64| today() - Days::new(days.unsigned_abs());
    let cents = dice.between(6, 249) * 100 + dice.pick(&PRICE_ENDINGS);
    let mut order = Order {
        number,
        buyer: dice.below(customer_count),
        item: dice.pick(&ITEMS),
        cents,
        state,
        placed: today(),
        shipped: None,
        delivered: None,
        refunded: None,
        cancelled: None,
        shipment: None,
    };
    // Days ago, counted back from the newest event of each state.
    match state {
        State::Processing => order.placed = ago(dice.between(0, 5)),
        State::Shipped => {
            let shipped = dice.between(1, 6);
            order.shipped = Some(ago(shipped));
            order.placed = ago(shipped + dice.between(1, 4));
            order.shipment = Some(Shipment {
                carrier: dice.pick(&CARRIERS),
                status: dice.pick(&PARCEL_STATES),
                eta: Some(today() + Days::new(dice.between(0, 6).unsigned_abs())),
            });
        }
        State::DeliveredLately => arrive(&mut order, dice, |dice| dice.between(1, REFUND_DAYS)),
        State::DeliveredLongAgo => arrive(&mut order, dice, long_ago),
        State::Refunded => {
            let refunded = dice.between(1, 40);
            order.refunded = Some(ago(refunded));
            arrive(&mut order, dice, |dice| refunded + dice.between(3, REFUND_DAYS));
        }
        State::Cancelled => {
            let cancelled = dice.between(1, 60);
            order.cancelled = Some(ago(cancelled));
            order.placed = ago(cancelled + dice.between(0, 2));
        }
    }
    order
}

/// Half of the late ones are only just too late, where the rule is easiest to get wrong.
fn long_ago(dice: &mut Dice) -> i64 {
    if dice.chance(0.5) { dice.between(REFUND_DAYS + 1, REFUND_DAYS + 30) } else { dice.between(61, 200) }
}

fn arrive(order: &mut Order, dice: &mut Dice, days_ago: impl FnOnce(&mut Dice) -> i64) {
    let ago = |days: i64| today() - Days::new(days.unsigned_abs());
    let delivered = days_ago(dice);
    let shipped = delivered + dice.between(1, 4);
    order.delivered = Some(ago(delivered));
    order.shipped = Some(ago(shipped));
    order.placed = ago(shipped + dice.between(1, 4));
    order.shipment = Some(Shipment { carrier: dice.pick(&CARRIERS), status: "delivered", eta: None });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_shop() {
        assert_eq!(World::generate(7, 2_000), World::generate(7, 2_000));
        assert_ne!(World::generate(7, 2_000).orders, World::generate(8, 2_000).orders);
    }

    #[test]
    fn a_shop_has_all_states_and_no_number_or_address_twice() {
        let world = World::generate(7, 0);
        assert!(world.orders.len() >= ORDERS_MIN && world.customers.len() >= CUSTOMERS_MIN);
        for state in State::ALL {
            assert!(world.orders.iter().filter(|order| order.state == state).count() > 100, "{state:?}");
        }
        let numbers: HashSet<u32> =
            world.orders.iter().map(|order| order.number).chain(world.free_numbers.iter().copied()).collect();
        assert_eq!(numbers.len(), world.orders.len() + world.free_numbers.len());
        let emails: HashSet<&str> = world.customers.iter().map(|customer| customer.email.as_str()).collect();
        assert_eq!(emails.len(), world.customers.len());
    }

    #[test]
    fn the_days_of_an_order_follow_each_other() {
        for order in World::generate(3, 5_000).orders {
            let days = [Some(order.placed), order.shipped, order.delivered, order.refunded, Some(today())];
            let days: Vec<NaiveDate> = days.into_iter().flatten().collect();
            assert!(days.is_sorted(), "{order:?}");
            assert_ne!(order.cents % 10, 0, "{order:?}");
        }
    }
}
