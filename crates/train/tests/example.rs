//! The committed example: what it holds, that the generator made it, and that its rules cannot be talked around.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use kintsugi_agent::prompt::Action;
use kintsugi_events::{Goal, GoalResult, GoalStatus, ResultAction, evaluate};
use kintsugi_tools::ToolError;
use kintsugi_train::shop::{Desk, Dice, Order, Sheets, State, World, dump, write_store};
use kintsugi_train::tickets::{
    Bank, DATABASE_FILE, EXAMPLE_GOALS, EXAMPLE_SEED, Episode, ExampleGoal, GOALS_FILE, Split, episodes,
    example, goal_lines, work, write_example,
};
use kintsugi_types::{AgentId, EffectId, ErrorTier, GoalId, SeededIds, TokenUsage, ToolName};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Map, Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/support-desk")
}

fn shipped() -> (World, Vec<ExampleGoal>) {
    example(&Bank::shipped().unwrap(), EXAMPLE_GOALS, EXAMPLE_SEED).unwrap()
}

fn open_read_only(path: &Path) -> Connection {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

#[test]
fn the_committed_files_are_what_the_generator_gives() {
    let (world, goals) = shipped();
    let committed = std::fs::read_to_string(folder().join(GOALS_FILE)).unwrap();
    let hint = "run `cargo run -p kintsugi-train -- example` and commit what it writes";
    assert!(committed == goal_lines(&goals), "{GOALS_FILE} is not current: {hint}");
    let mut fresh = Connection::open_in_memory().unwrap();
    write_store(&mut fresh, &world).unwrap();
    let committed = dump(&open_read_only(&folder().join(DATABASE_FILE))).unwrap();
    assert!(committed == dump(&fresh).unwrap(), "{DATABASE_FILE} is not current: {hint}");
}

#[test]
fn the_generator_writes_the_same_wherever_it_writes_and_replaces_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let (world, goals) = example(&Bank::shipped().unwrap(), 700, 11).unwrap();
    write_example(folder.path(), &world, &goals).unwrap();
    let path = folder.path().join(DATABASE_FILE);
    let first = dump(&open_read_only(&path)).unwrap();
    write_example(folder.path(), &world, &goals).unwrap();
    assert!(first == dump(&open_read_only(&path)).unwrap());
    assert_eq!(std::fs::read_to_string(folder.path().join(GOALS_FILE)).unwrap().lines().count(), 700);
    assert!(
        example(&Bank::shipped().unwrap(), 1_000_000, 1).is_err(),
        "five digits are not enough for these"
    );
}

#[test]
fn the_goals_are_many_and_different_and_held_out() {
    let (world, goals) = shipped();
    assert!(world.customers.len() >= 500 && world.orders.len() >= 2_000);
    assert!(goals.len() >= 300);
    let entries: HashSet<&str> = goals.iter().map(|goal| goal.ticket.entry.id.as_str()).collect();
    assert!(entries.len() >= 120, "{}", entries.len());
    let bank = Bank::shipped().unwrap();
    let held_out: HashSet<&str> = bank.of(Split::HeldOut).map(|entry| entry.id.as_str()).collect();
    assert!(entries.is_subset(&held_out));
    let texts: HashSet<&str> = goals.iter().map(|goal| goal.goal.text.as_str()).collect();
    assert!(texts.len() * 100 >= goals.len() * 95, "only {} of {} texts differ", texts.len(), goals.len());
    let numbers: Vec<u32> = goals.iter().filter_map(|goal| goal.ticket.number).collect();
    assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), numbers.len(), "each goal has its own order");
    let size = std::fs::metadata(folder().join(DATABASE_FILE)).unwrap().len();
    assert!(size < 1_500_000, "{size} bytes are too many to commit");
}

#[test]
fn every_line_is_a_goal_whose_expect_can_be_evaluated() {
    let text = std::fs::read_to_string(folder().join(GOALS_FILE)).unwrap();
    for line in text.lines() {
        let goal: Goal = serde_json::from_str(line).unwrap();
        assert!(goal.other.is_empty() && goal.id.is_some() && goal.kind.is_some(), "{line}");
        let nothing = result(&Vec::new(), "");
        assert_eq!(
            evaluate(&goal.expect.unwrap(), &nothing, &is_write),
            Ok(false),
            "an empty answer: {line}"
        );
    }
}

fn is_write(tool: &ToolName) -> bool {
    ["escalate", "refund", "send_password_reset"].contains(&tool.as_str())
}

fn result(actions: &[(ToolName, Value)], answer: &str) -> GoalResult {
    let mut ids = SeededIds::new(1);
    GoalResult {
        goal: GoalId::new("g").unwrap(),
        agent: AgentId::new("support-1").unwrap(),
        status: GoalStatus::Completed,
        answer: Some(answer.to_owned()),
        actions: actions
            .iter()
            .map(|(tool, args)| ResultAction {
                effect: EffectId::new(&mut ids),
                tool: tool.clone(),
                args: args.clone(),
                ok: true,
            })
            .collect(),
        reason: None,
        steps: 1,
        tokens: TokenUsage::default(),
        usd: 0.0,
        wall_ms: 0,
        seams: 0,
    }
}

/// Whether the episode's own `expect` calls it right.
fn is_right(episode: &Episode) -> bool {
    let mut actions = Vec::new();
    let mut last = String::new();
    for step in &episode.steps {
        match &step.decision.action {
            Action::Call(call) => actions.push((call.tool.clone(), call.args.clone())),
            Action::Finish { answer } => last.clone_from(answer),
        }
    }
    evaluate(episode.goal.expect.as_ref().unwrap(), &result(&actions, &last), &is_write).unwrap()
}

#[test]
fn the_oracle_works_every_goal_of_the_example_as_its_expect_demands() {
    let (world, goals) = shipped();
    let mut desk = Desk::open(&Sheets::shipped().unwrap(), world).unwrap();
    let mut dice = Dice::new(1, 9);
    for goal in goals {
        let episode = work(&mut desk, &goal.ticket, goal.goal, &mut dice).unwrap();
        assert!(is_right(&episode), "{}: {episode:#?}", goal.id);
    }
}

#[test]
fn the_oracle_is_right_in_every_episode_and_observes_what_tools_say() {
    let (bank, sheets) = (Bank::shipped().unwrap(), Sheets::shipped().unwrap());
    for split in [Split::Train, Split::HeldOut] {
        for episode in episodes(&bank, split, &sheets, 3).unwrap().take(3_000) {
            let episode = episode.unwrap();
            assert!(is_right(&episode), "{episode:#?}");
        }
    }
}

#[test]
fn another_answer_than_the_right_one_is_told_apart() {
    let (bank, sheets) = (Bank::shipped().unwrap(), Sheets::shipped().unwrap());
    let mut wrong: BTreeMap<String, usize> = BTreeMap::new();
    let all: Vec<Episode> =
        episodes(&bank, Split::HeldOut, &sheets, 3).unwrap().take(600).map(Result::unwrap).collect();
    for (episode, other) in all.iter().zip(all.iter().skip(1)) {
        if episode.intent != other.intent && episode.intent != "other" {
            let mixed = Episode { steps: other.steps.clone(), ..episode.clone() };
            if is_right(&mixed) {
                *wrong
                    .entry(format!("{}/{} by {}", episode.intent, episode.case, other.intent))
                    .or_default() += 1;
            }
        }
    }
    // To ask for the number is right for every ticket without one, whatever it is about.
    wrong.retain(|label, _| !label.contains("/no_number"));
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// The shop of the example with the books to check against.
struct Shop {
    desk: Desk,
}

impl Shop {
    fn open() -> Self {
        Self { desk: Desk::open(&Sheets::shipped().unwrap(), shipped().0).unwrap() }
    }

    fn order(&self, state: State) -> Order {
        self.desk.world.orders.iter().find(|order| order.state == state).unwrap().clone()
    }

    fn owner(&self, order: &Order) -> String {
        self.desk.world.customers[order.buyer].email.clone()
    }

    fn call(&mut self, tool: &str, args: Value, from: &str) -> Result<String, ToolError> {
        let input = Map::from_iter([("from".to_owned(), json!(from))]);
        self.desk.call(&ToolName::new(tool).unwrap(), args, input)
    }

    fn count(&self, sql: &str) -> i64 {
        self.desk.connection().lock().unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

#[track_caller]
fn refused(result: Result<String, ToolError>, code: &str) {
    let error = result.unwrap_err();
    assert_eq!((error.tier, error.code.as_ref()), (ErrorTier::Recoverable, code), "{error}");
}

#[test]
fn the_refund_tool_keeps_the_shops_rules_whatever_an_agent_says() {
    let mut shop = Shop::open();
    let before = shop.count("SELECT count(*) FROM refunds");
    let lately = shop.order(State::DeliveredLately);
    let owner = shop.owner(&lately);
    let (number, total) = (lately.number, lately.total());

    let stranger = shop.desk.world.strangers[0].email.clone();
    for from in [stranger.as_str(), "", "' OR 1=1 --", "%"] {
        refused(shop.call("refund", json!({"order": number, "amount": total}), from), "order_not_found");
    }
    let free = shop.desk.world.free_numbers[0];
    refused(shop.call("refund", json!({"order": free, "amount": 1.0}), &owner), "order_not_found");
    for amount in [total + 0.01, total * 10.0, 1e300, 0.0, -5.0, 0.001, -0.0] {
        refused(shop.call("refund", json!({"order": number, "amount": amount}), &owner), "wrong_amount");
    }
    for args in [
        json!({"order": number}),
        json!({"order": number.to_string(), "amount": total}),
        json!({"order": number, "amount": "all"}),
        json!({"order": number, "amount": null}),
        json!({"order": [number], "amount": total}),
        json!({"order": 10482.5, "amount": total}),
        json!({"order": number, "amount": total, "from_email": owner}),
        json!({"order": number, "amount": total, "effect": "eff_1"}),
    ] {
        refused(shop.call("refund", args, &stranger), "invalid_arguments");
    }
    for (state, code) in [
        (State::DeliveredLongAgo, "too_late"),
        (State::Refunded, "already_refunded"),
        (State::Processing, "not_delivered"),
        (State::Shipped, "not_delivered"),
        (State::Cancelled, "not_delivered"),
    ] {
        let order = shop.order(state);
        let owner = shop.owner(&order);
        refused(shop.call("refund", json!({"order": order.number, "amount": 1.25}), &owner), code);
    }
    assert_eq!(shop.count("SELECT count(*) FROM refunds"), before, "nothing was paid so far");
    assert_eq!(shop.count("SELECT count(*) FROM kintsugi_effects"), 0);
    assert_eq!(shop.count("SELECT count(*) FROM mails"), 0);

    let paid = shop.call("refund", json!({"order": number, "amount": total}), &owner.to_uppercase());
    assert_eq!(paid.unwrap(), r#"{"refunded":true}"#, "an address has no upper case");
    refused(shop.call("refund", json!({"order": number, "amount": 0.01}), &owner), "already_refunded");
    assert_eq!(shop.count("SELECT count(*) FROM refunds"), before + 1);
    assert_eq!(shop.count("SELECT count(*) FROM mails"), 1);
    assert_eq!(shop.count(&format!("SELECT cents FROM refunds WHERE order_number = {number}")), lately.cents);
}

#[test]
fn the_last_day_of_the_term_counts_and_the_next_does_not() {
    let mut shop = Shop::open();
    for (days, wanted) in [(30, true), (31, false)] {
        let world = &shop.desk.world;
        let day = kintsugi_train::shop::today() - chrono::Days::new(days);
        let fits = |order: &&Order| order.delivered == Some(day) && order.refunded.is_none();
        let order = world.orders.iter().find(fits).unwrap().clone();
        let owner = shop.owner(&order);
        let lookup = shop.call("lookup_order", json!({"order": order.number}), &owner).unwrap();
        assert!(lookup.contains(&format!("\"days\":{days},")), "{lookup}");
        let paid = shop.call("refund", json!({"order": order.number, "amount": order.total()}), &owner);
        assert_eq!(paid.is_ok(), wanted, "{days} days");
    }
}

#[test]
fn other_peoples_orders_and_accounts_stay_theirs() {
    let mut shop = Shop::open();
    let order = shop.order(State::Shipped);
    let stranger = shop.desk.world.strangers[0].email.clone();
    let not_found = r#"{"found":false}"#;
    for tool in ["lookup_order", "track_parcel"] {
        assert_eq!(shop.call(tool, json!({"order": order.number}), &stranger).unwrap(), not_found);
    }
    assert_eq!(shop.call("lookup_customer", json!({}), &stranger).unwrap(), not_found);
    let victim = shop.desk.world.customers[0].id;
    refused(shop.call("send_password_reset", json!({"customer": victim}), &stranger), "not_own_account");
    let damaged = json!({"order": order.number, "reason": "damaged"});
    refused(shop.call("escalate", damaged, &stranger), "order_not_found");
    refused(shop.call("escalate", json!({"reason": "damaged"}), &stranger), "order_missing");
    refused(shop.call("escalate", json!({"reason": "world peace"}), &stranger), "invalid_arguments");
    let owner = shop.owner(&order);
    let cancel = json!({"order": order.number, "reason": "cancel"});
    refused(shop.call("escalate", cancel, &owner), "too_late");
}

#[test]
fn answers_of_tools_are_short() {
    let mut shop = Shop::open();
    for state in State::ALL {
        let order = shop.order(state);
        let owner = shop.owner(&order);
        let text = shop.call("lookup_order", json!({"order": order.number}), &owner).unwrap();
        assert!(text.len() <= 130, "{text}");
        assert!(
            text.starts_with(&format!("{{\"order\":{},\"state\":\"{}\"", order.number, state.column())),
            "{text}"
        );
    }
}
