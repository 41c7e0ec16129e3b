//! SQL tools: what a repeat, a refusal, a crowd and a slow statement do.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kintsugi_tools::{DatabaseSource, LoadContext, LoadErrors, Registry, ToolCall, ToolError};
use kintsugi_types::{EffectId, ErrorTier, SeededIds, ToolName, ToolSafety};
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

const LOOKUP: &str = r#"
name = "balance"
kind = "sql"
description = "what an account holds"
database = "bank.db"
mode = "read"
[parameters]
required = ["account"]
[parameters.properties.account]
type = "string"
maxLength = 20
[bind]
owner = "goal.input.from"
[result]
rows = "one"
empty = { found = false }
sql = "SELECT name, cents, note FROM accounts WHERE name = :account AND owner = :owner"
"#;

const PAY: &str = r#"
name = "pay"
kind = "sql"
description = "take money out"
database = "bank.db"
mode = "write"
[parameters]
required = ["account", "cents"]
[parameters.properties.account]
type = "string"
[parameters.properties.cents]
type = "integer"
minimum = 1
[[guard]]
code = "too_little"
message = "{account} holds less than {cents}"
sql = "SELECT cents >= :cents FROM accounts WHERE name = :account"
[[write]]
sql = "UPDATE accounts SET cents = cents - :cents WHERE name = :account"
[[write]]
sql = "INSERT INTO payments VALUES (:effect, :cents)"
[result]
rows = "one"
sql = "SELECT cents AS \"left\" FROM accounts WHERE name = :account"
"#;

struct Bank {
    folder: TempDir,
    registry: Registry,
    ids: SeededIds,
}

fn create_database(folder: &Path) {
    let connection = Connection::open(folder.join("bank.db")).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE accounts (name TEXT PRIMARY KEY, owner TEXT, cents INTEGER, note TEXT);
             CREATE TABLE payments (effect TEXT UNIQUE, cents INTEGER);
             INSERT INTO accounts VALUES ('a', 'mara', 1000, NULL), ('b', 'jonas', 5, 'closed');",
        )
        .unwrap();
}

fn load(folder: &Path, documents: &[&str]) -> Result<Registry, LoadErrors> {
    let documents: Vec<(PathBuf, String)> = documents
        .iter()
        .enumerate()
        .map(|(place, text)| (PathBuf::from(format!("tools/{place}.toml")), (*text).to_owned()))
        .collect();
    let databases = DatabaseSource::Folder(folder.to_owned());
    Registry::from_documents(&documents, &LoadContext { databases: &databases, secrets: &|_| None })
}

impl Bank {
    fn open(documents: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        create_database(folder.path());
        let registry = load(folder.path(), documents).unwrap();
        Self { folder, registry, ids: SeededIds::new(1) }
    }

    fn effect(&mut self) -> EffectId {
        EffectId::new(&mut self.ids)
    }

    fn call(&mut self, tool: &str, args: Value) -> Result<String, ToolError> {
        let effect = self.effect();
        self.call_as(tool, effect, args)
    }

    fn call_as(&self, tool: &str, effect: EffectId, args: Value) -> Result<String, ToolError> {
        let input = json!({"from": "mara"}).as_object().unwrap().clone();
        let call = ToolCall::new(effect, args, input);
        self.registry.call(&name(tool), &call).map(|output| output.text)
    }

    fn query(&self, sql: &str) -> i64 {
        let connection = Connection::open(self.folder.path().join("bank.db")).unwrap();
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

fn name(name: &str) -> ToolName {
    ToolName::new(name).unwrap()
}

#[test]
fn a_row_is_compact_json_without_nulls_and_no_row_is_what_the_file_says() {
    let mut bank = Bank::open(&[LOOKUP]);
    assert_eq!(bank.call("balance", json!({"account": "a"})).unwrap(), r#"{"name":"a","cents":1000}"#);
    assert_eq!(bank.call("balance", json!({"account": "zz"})).unwrap(), r#"{"found":false}"#);
}

#[test]
fn what_is_bound_comes_from_the_goal_and_never_from_the_model() {
    let mut bank = Bank::open(&[LOOKUP]);
    assert_eq!(bank.call("balance", json!({"account": "b"})).unwrap(), r#"{"found":false}"#, "not mara's");
    let error = bank.call("balance", json!({"account": "b", "owner": "jonas"})).unwrap_err();
    assert_eq!((error.tier, error.code.as_ref()), (ErrorTier::Recoverable, "invalid_arguments"));
    assert!(error.message.contains("owner"), "{error}");
    let spec = bank.registry.spec(&name("balance")).unwrap();
    assert!(!spec.parameters.to_string().contains("owner"), "the model does not even see it");
}

#[test]
fn a_goal_without_the_bound_input_is_refused_in_words() {
    let bank = Bank::open(&[LOOKUP]);
    let effect = EffectId::new(&mut SeededIds::new(9));
    let call = ToolCall::new(effect, json!({"account": "a"}), serde_json::Map::new());
    let error = bank.registry.call(&name("balance"), &call).unwrap_err();
    assert_eq!((error.tier, error.code.as_ref()), (ErrorTier::Recoverable, "missing_input"));
}

#[test]
fn wrong_arguments_are_refused_with_their_place() {
    let mut bank = Bank::open(&[LOOKUP, PAY]);
    for (args, place) in [
        (json!({"account": 7}), "account: "),
        (json!({}), "account"),
        (json!({"account": "x".repeat(21)}), "account: "),
        (json!("a"), "object"),
    ] {
        let error = bank.call("balance", args.clone()).unwrap_err();
        assert_eq!(error.tier, ErrorTier::Recoverable);
        assert!(error.message.contains(place), "{args}: {error}");
    }
    let error = bank.call("balanse", json!({})).unwrap_err();
    assert_eq!((error.tier, error.code.as_ref()), (ErrorTier::Recoverable, "unknown_tool"));
    assert!(error.message.contains("did you mean `balance`"), "{error}");
}

#[test]
fn text_that_looks_like_sql_stays_text() {
    let mut bank = Bank::open(&[LOOKUP]);
    let wicked = json!({"account": "' OR 1=1 --"});
    assert_eq!(bank.call("balance", wicked).unwrap(), r#"{"found":false}"#);
}

#[test]
fn safety_follows_from_the_mode() {
    let bank = Bank::open(&[LOOKUP, PAY]);
    assert_eq!(bank.registry.spec(&name("balance")).unwrap().safety, ToolSafety::ReadOnly);
    assert_eq!(bank.registry.spec(&name("pay")).unwrap().safety, ToolSafety::Keyed);
}

#[test]
fn a_repeat_under_the_same_effect_returns_the_recorded_outcome_and_acts_once() {
    let mut bank = Bank::open(&[PAY]);
    let effect = bank.effect();
    let args = json!({"account": "a", "cents": 300});
    assert_eq!(bank.registry.post_condition(&name("pay"), effect), Some(false));
    let first = bank.call_as("pay", effect, args.clone()).unwrap();
    assert_eq!(first, r#"{"left":700}"#);
    assert_eq!(bank.registry.post_condition(&name("pay"), effect), Some(true));
    bank.call("pay", args.clone()).unwrap();
    assert_eq!(bank.call_as("pay", effect, args.clone()).unwrap(), first, "as it was then, not as it is now");
    let after_restart = load(bank.folder.path(), &[PAY]).unwrap();
    let call = ToolCall::new(effect, args, serde_json::Map::new());
    assert_eq!(after_restart.call(&name("pay"), &call).unwrap().text, first);
    assert_eq!(bank.query("SELECT cents FROM accounts WHERE name = 'a'"), 400);
    assert_eq!(bank.query("SELECT count(*) FROM payments"), 2);
}

#[test]
fn a_refused_write_leaves_no_trace_and_may_be_repaired_under_the_same_effect() {
    let mut bank = Bank::open(&[PAY]);
    let effect = bank.effect();
    let error = bank.call_as("pay", effect, json!({"account": "a", "cents": 1001})).unwrap_err();
    assert_eq!((error.tier, error.code.as_ref()), (ErrorTier::Recoverable, "too_little"));
    assert_eq!(error.message, "a holds less than 1001");
    assert_eq!(bank.query("SELECT count(*) FROM kintsugi_effects"), 0);
    assert_eq!(bank.registry.post_condition(&name("pay"), effect), Some(false));
    assert!(bank.call_as("pay", effect, json!({"account": "a", "cents": 1})).is_ok());
    let error = bank.call("pay", json!({"account": "nobody", "cents": 1})).unwrap_err();
    assert_eq!(error.code, "too_little", "a guard without a row refuses");
}

#[test]
fn a_statement_that_fails_undoes_those_before_it() {
    let broken = PAY.replace(
        "INSERT INTO payments VALUES (:effect, :cents)",
        "INSERT INTO payments VALUES ('same', :cents)",
    );
    let mut bank = Bank::open(&[&broken]);
    bank.call("pay", json!({"account": "a", "cents": 1})).unwrap();
    let error = bank.call("pay", json!({"account": "a", "cents": 1})).unwrap_err();
    assert_eq!((error.tier, error.code.as_ref()), (ErrorTier::Recoverable, "constraint"));
    assert_eq!(bank.query("SELECT cents FROM accounts WHERE name = 'a'"), 999);
}

#[test]
fn many_threads_together_act_once_per_effect() {
    let mut bank = Bank::open(&[PAY]);
    let effects: Vec<EffectId> = (0..25).map(|_| bank.effect()).collect();
    // Two registries on one file: threads that share a connection and threads that do not.
    let registries = [bank.registry.clone(), load(bank.folder.path(), &[PAY]).unwrap()];
    let effects = Arc::new(effects);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let registry = &registries[thread % 2];
            let effects = effects.clone();
            scope.spawn(move || {
                for effect in effects.iter() {
                    let call =
                        ToolCall::new(*effect, json!({"account": "a", "cents": 10}), serde_json::Map::new());
                    registry.call(&name("pay"), &call).unwrap();
                }
            });
        }
    });
    assert_eq!(bank.query("SELECT cents FROM accounts WHERE name = 'a'"), 1000 - 25 * 10);
    assert_eq!(bank.query("SELECT count(*) FROM payments"), 25);
}

#[test]
fn another_writer_makes_a_write_transient_and_not_a_read() {
    let mut bank = Bank::open(&[LOOKUP, &format!("timeout_ms = 50\n{PAY}")]);
    let mut other = Connection::open(bank.folder.path().join("bank.db")).unwrap();
    let lock = other.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    let error = bank.call("pay", json!({"account": "a", "cents": 1})).unwrap_err();
    assert_eq!((error.tier, error.code.as_ref()), (ErrorTier::Transient, "busy"));
    assert!(bank.call("balance", json!({"account": "a"})).is_ok());
    drop(lock);
    assert!(bank.call("pay", json!({"account": "a", "cents": 1})).is_ok());
}

const ENDLESS: &str = r#"
name = "count"
kind = "sql"
description = "counts for ever"
database = "bank.db"
mode = "read"
timeout_ms = 60
[result]
sql = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) AS n FROM c"
"#;

#[test]
fn a_statement_without_end_is_stopped_and_the_connection_stays_good() {
    let mut bank = Bank::open(&[ENDLESS, LOOKUP]);
    let start = Instant::now();
    let error = bank.call("count", json!({})).unwrap_err();
    assert_eq!((error.tier, error.code.as_ref()), (ErrorTier::Transient, "timeout"));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(bank.call("balance", json!({"account": "a"})).is_ok());
}

#[test]
fn a_call_after_its_deadline_is_not_begun() {
    let mut bank = Bank::open(&[PAY]);
    let mut call = ToolCall::new(bank.effect(), json!({"account": "a", "cents": 1}), serde_json::Map::new());
    call.deadline = Some(Instant::now());
    assert_eq!(bank.registry.call(&name("pay"), &call).unwrap_err().code, "timeout");
    assert_eq!(bank.query("SELECT count(*) FROM payments"), 0);
}

#[test]
fn an_answer_beyond_the_limit_is_cut_and_says_so() {
    let long = r#"
name = "rows"
kind = "sql"
description = "many rows"
database = "bank.db"
mode = "read"
output_bytes_max = 40
output_schema = { type = "array" }
[parameters.properties.upto]
type = "integer"
[result]
sql = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < :upto) SELECT n FROM c"
"#;
    let mut bank = Bank::open(&[long]);
    assert_eq!(bank.call("rows", json!({"upto": 2})).unwrap(), r#"[{"n":1},{"n":2}]"#);
    // Cut while reading: counting to the end would take longer than the test has.
    let call = ToolCall::new(bank.effect(), json!({"upto": 1_000_000_000_000_i64}), serde_json::Map::new());
    let output = bank.registry.call(&name("rows"), &call).unwrap();
    assert!(output.truncated);
    assert!(output.text.ends_with("… [truncated at 40 bytes]"), "{}", output.text);
    assert!(output.text.starts_with(r#"[{"n":1},"#) && output.text.len() < 80, "{}", output.text);
}

#[test]
fn an_answer_that_breaks_its_promise_is_fatal() {
    let lying = format!("output_schema = {{ required = [\"cents\"] }}\n{LOOKUP}");
    let mut bank = Bank::open(&[&lying]);
    assert!(bank.call("balance", json!({"account": "a"})).is_ok());
    let error = bank.call("balance", json!({"account": "zz"})).unwrap_err();
    assert_eq!((error.tier, error.code.as_ref()), (ErrorTier::Fatal, "schema_lie"));
    assert!(error.message.contains("tool lies about its schema"), "{error}");
}
