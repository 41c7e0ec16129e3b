//! Mistakes in what a user writes: each is told with its place and the next step, before anything runs.

use std::path::Path;

use super::common::{example, kintsugi};
use super::{ask, join, said};

const AGENT: &str = "kind = \"echo\"\nprompt = \"Answer.\"\n";
const GOAL: &str = "{\"text\":\"hello\"}\n";

/// A small example, `desk`, with a mistake in it.
pub(super) struct Attempt {
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    variables: Vec<(&'static str, &'static str)>,
}

/// A small example with these files, instead of its own where they have the same name.
pub(super) fn with(files: &[(&str, &str)]) -> Attempt {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [("agents/echo.toml", AGENT), ("goals.jsonl", GOAL)].iter().chain(files) {
        let file = folder.path().join("desk").join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
    }
    Attempt { folder, arguments: Vec::new(), variables: Vec::new() }
}

impl Attempt {
    fn without(self, name: &str) -> Self {
        std::fs::remove_file(self.folder.path().join("desk").join(name)).unwrap();
        self
    }

    pub(super) fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }

    pub(super) fn flags(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `run` refuses it, and no run was begun.
    pub(super) fn is_refused(&self, status: i32, words: &[&str]) {
        let mut command = kintsugi(&["run", "desk", "--data-dir", "data", "--quiet"]);
        command.args(&self.arguments).envs(self.variables.iter().copied()).current_dir(self.path());
        said(&mut command).is_refused(status, words);
        assert!(!self.path().join("data").exists(), "a refused start left its folder behind");
    }
}

#[test]
fn a_wrong_folder_is_told() {
    let check = |folder: &str, words: &[&str]| {
        let attempt = with(&[]);
        ask(attempt.path(), &["run", folder]).is_refused(2, words);
    };
    check("dessk", &["dessk is no folder", "name an example's folder"]);
    check("desk/goals.jsonl", &["desk/goals.jsonl is no folder"]);
    check("desk/agents", &["desk/agents is no example", "it has no folder `agents`"]);
}

#[test]
fn a_mistake_in_the_goals_is_told_with_file_and_line() {
    let goals = |text: &str, words: &[&str]| with(&[("goals.jsonl", text)]).is_refused(2, words);
    goals("hello\n", &["desk/goals.jsonl:1:1: no goal", "one JSON object a line"]);
    goals(
        "{\"text\":\"a\"}\n{\"txt\":\"b\"}\n",
        &["desk/goals.jsonl:2:", "missing field `text`", "required"],
    );
    goals("\n{\"text\":\"a\", \"deadline\":\"soon\"}\n", &["desk/goals.jsonl:2:"]);
    goals("{\"text\":\"a\",\"id\":\"\"}\n", &["desk/goals.jsonl:1:", "id is empty"]);
    goals("\n\n", &["desk/goals.jsonl holds no goal", "one JSON object a line"]);
    // The line is the file's, whatever else stands there.
    goals(
        "\n{\"text\":\"a\"}\n\n{\"text\":\"b\",\"expect\":{\"tool\":[]}}\n",
        &["desk/goals.jsonl:4: `expect`", "unknown field `tool`"],
    );
    goals(
        "{\"id\":\"a\",\"text\":\"x\"}\n{\"id\":\"a\",\"text\":\"y\"}\n",
        &["desk/goals.jsonl:2: goal id a is taken by another goal in line 1", "an id of its own"],
    );
    with(&[]).without("goals.jsonl").is_refused(2, &["no file of goals desk/goals.jsonl", "--goals FILE"]);
    with(&[]).flags(&["--goals", "mine.jsonl"]).is_refused(2, &["mine.jsonl", "--goals FILE"]);
    with(&[]).flags(&["--goals", "desk"]).is_refused(2, &["desk is a folder", "--goals FILE"]);
}

#[test]
fn a_goal_that_nobody_can_take_is_told_before_the_run() {
    let goals = |text: &str, words: &[&str]| with(&[("goals.jsonl", text)]).is_refused(2, words);
    let fine = "{\"text\":\"a\"}";
    goals(
        &format!("{fine}\n{{\"text\":\"a\",\"kind\":\"ehco\"}}\n"),
        &["desk/goals.jsonl:2: there is no kind of agent `ehco`; there are echo; did you mean `echo`?"],
    );
    goals(
        "{\"text\":\"a\",\"agent\":\"echo-1\"}\n{\"text\":\"a\",\"kind\":\"x\"}\n",
        &[
            "desk/goals.jsonl:1: there is no agent `echo-1`",
            "did you mean `echo-0`?",
            "1 more goals of the file",
        ],
    );
    goals(&format!("{fine}\n{{\"text\":\" \"}}\n"), &["desk/goals.jsonl:2: `text` is empty"]);
    goals(
        &format!("{{\"text\":\"{}\"}}\n", "a".repeat(256 * 1024)),
        &["desk/goals.jsonl:1: a goal has at most 262144 bytes"],
    );
    goals(
        "{\"text\":\"a\",\"budget\":{\"stpes\":3}}\n",
        &["desk/goals.jsonl:1: `budget.stpes`", "did you mean `steps`?"],
    );
    goals("{\"text\":\"a\",\"budget\":{\"usd\":-1}}\n", &["`budget.usd` is -1", "not be below 0"]);
    goals("{\"text\":\"a\",\"urgency\":7}\n", &["goals.jsonl:1: `urgency` is 7", "in [0, 1]"]);
}

#[test]
fn a_refused_start_leaves_nothing_behind() {
    let attempt = with(&[("goals.jsonl", "{\"text\":\"a\",\"kind\":\"nobody\"}\n")]);
    let content = || {
        let entries = std::fs::read_dir(attempt.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    ask(attempt.path(), &["run", "desk"]).is_refused(2, &["no kind of agent `nobody`"]);
    assert_eq!(content(), ["desk"]);
    // What was there before stays.
    std::fs::create_dir_all(attempt.path().join("mine/files")).unwrap();
    std::fs::write(attempt.path().join("mine/files/note"), "mine").unwrap();
    ask(attempt.path(), &["run", "desk", "--data-dir", "mine"]).is_refused(2, &["no kind of agent"]);
    assert_eq!(content(), ["desk", "mine"]);
    assert!(attempt.path().join("mine/files/note").is_file());
    assert!(!attempt.path().join("mine/log").exists());
    // Nor does a node leave anything.
    std::fs::write(attempt.path().join("desk/agents/echo.toml"), "kind = 3\n").unwrap();
    ask(attempt.path(), &["up", "desk", "--listen", "127.0.0.1:0"]).is_refused(2, &["echo.toml"]);
    assert_eq!(content(), ["desk", "mine"]);
}

#[test]
fn no_goals_at_all_are_refused() {
    with(&[])
        .flags(&["--goal-count", "0"])
        .is_refused(2, &["--goal-count is 0", "at least 1", "desk/goals.jsonl"]);
}

#[test]
fn a_goal_that_stands_there_twice_is_run_once() {
    let twice = with(&[("goals.jsonl", "{\"id\":\"a\",\"text\":\"x\"}\n{\"id\":\"a\",\"text\":\"x\"}\n")]);
    let arguments = ["run", "desk", "--data-dir", "data", "--quiet", "--format", "json"];
    let told = ask(twice.path(), &arguments).document();
    assert_eq!(told["goals"]["submitted"], 1);
}

#[test]
fn a_mistake_in_the_settings_is_told_with_file_and_line() {
    let settings = |text: &str, words: &[&str]| {
        let words = join(&[&["desk/kintsugi.toml"], words]);
        with(&[("kintsugi.toml", text)]).is_refused(2, &words);
    };
    settings("[node]\nslotz = 3\n", &["line 2", "`slotz`", "did you mean `slots`?"]);
    settings("[nod]\nslots = 3\n", &["line 1", "`nod`", "did you mean `node`?"]);
    settings("[node]\n\nslots = \"many\"\n", &["line 3", "slots = \"many\"", "invalid type"]);
    settings("[model]\nmemory_budget = \"8 parsecs\"\n", &["line 2", "is not a size", "512MiB"]);
    settings("[node\n", &["line 1"]);
}

#[test]
fn a_setting_that_no_node_can_run_with_is_named() {
    let settings = |text: &str, words: &[&str]| with(&[("kintsugi.toml", text)]).is_refused(2, words);
    settings("[node]\nslots = 0\n", &["desk/kintsugi.toml:2: ", "`node.slots` is 0", "at least 1"]);
    settings("[node]\ntool_threads = 0\n", &["`node.tool_threads` is 0", "KINTSUGI_NODE__TOOL_THREADS"]);
    settings("[node]\ntool_ms_max = 0\n", &["`node.tool_ms_max` is 0"]);
    settings("[model]\nlease_ms_max = 0\n", &["`model.lease_ms_max` is 0"]);
    settings("[model]\ntemperature = -0.5\n", &["`model.temperature` is -0.5", "not below 0"]);
    settings("[model]\ntop_p = 1.5\n", &["`model.top_p` is 1.5", "at most 1"]);
    settings("[model]\n\ncontext_tokens = 0\n", &["desk/kintsugi.toml:3: ", "context_tokens is 0"]);
    settings("[healing]\nthresholds = { recovering = 0.1 }\n", &["desk/kintsugi.toml:2: "]);
    settings("[healing.thresholds]\nfailed = 0.5\n", &["`healing.thresholds.failed` is 0.5"]);
    let step_max = ["desk/kintsugi.toml:2: ", "`healing.monitor.ratios.step_max` is 0.5", "above 1"];
    settings("[healing.monitor.ratios]\nstep_max = 0.5\n", &step_max);
    settings("[healing.monitor]\ntool_streaks = 3\n", &["did you mean `tool_streak`?"]);
    let deadline_ms =
        ["desk/kintsugi.toml:2: ", "`healing.diagnose.deadline_ms` is 0", "between 1 and 60000"];
    settings("[healing.diagnose]\ndeadline_ms = 0\n", &deadline_ms);
    settings(
        "[healing.diagnose]\nask_below = 1.5\n",
        &["`healing.diagnose.ask_below` is 1.5", "between 0 and 1"],
    );
    settings(
        "[healing.diagnose]\ntokens_max = 2\n",
        &["`healing.diagnose.tokens_max` is 2", "between 16 and 1024"],
    );
    settings("[healing.diagnose]\nby_modle = \"off\"\n", &["line 2", "did you mean `by_model`?"]);
    settings("[healing.diagnose]\nby_model = \"unshure\"\n", &["line 2", "expected `off` or `unsure`"]);
    settings("[prices]\nprompt_usd_per_million = -1.0\n", &["`prices.prompt_usd_per_million` is -1"]);
    with(&[]).flags(&["--slots", "0"]).is_refused(2, &["flag --slots: ", "`node.slots` is 0"]);
}

#[test]
fn a_diagnoser_outside_of_the_node_has_no_model_to_ask() {
    let by_model = "[healing.diagnose]\nby_model = \"unsure\"\n";
    let external = format!("{by_model}[stages]\ndiagnose = \"external\"\n");
    let words = [
        "desk/kintsugi.toml:2: ",
        "`healing.diagnose.by_model` is unsure",
        "off where stages.diagnose is external",
    ];
    with(&[("kintsugi.toml", &external)]).is_refused(2, &words);
    let stage = |name| {
        let attempt = with(&[("kintsugi.toml", by_model)]);
        ask(attempt.path(), &["stage", name, "desk", "--log", "kafka://127.0.0.1:9", "--data-dir", "data"])
    };
    let words =
        ["desk/kintsugi.toml:2: ", "a stage by itself has no model to ask", "leave the stage to the nodes"];
    stage("diagnose").is_refused(2, &words);
    // The others have nothing to do with it: they find no broker.
    stage("monitor").is_refused(3, &["127.0.0.1:9"]);
}

#[test]
fn a_mistake_in_the_environment_is_told_with_the_variable() {
    let variable = |name, value, words: &[&str]| with(&[]).variable(name, value).is_refused(2, words);
    variable("KINTSUGI_NODE__SLOTZ", "3", &["KINTSUGI_NODE__SLOTZ", "did you mean `slots`?"]);
    variable("KINTSUGI_NODE__SLOTS", "many", &["KINTSUGI_NODE__SLOTS is \"many\"", "invalid type"]);
    variable("KINTSUGI_NOD__SLOTS", "3", &["KINTSUGI_NOD__SLOTS", "did you mean `node`?"]);
    variable("KINTSUGI_HEALING__THRESHOLDS__FAILED", "0.9", &["`healing.thresholds.failed` is 0.9"]);
    variable("KINTSUGI_NODE__SLOTS", "0", &["variable KINTSUGI_NODE__SLOTS: ", "`node.slots` is 0"]);
    variable("KINTSUGI_NODE_SLOTS", "3", &["KINTSUGI_NODE_SLOTS", "did you mean `KINTSUGI_NODE__SLOTS`?"]);
    variable("KINTSUGI_HTTP_TOKNE", "x", &["KINTSUGI_HTTP_TOKNE", "did you mean `KINTSUGI_HTTP_TOKEN`?"]);
    variable("KINTSUGI_FOO", "3", &["KINTSUGI_FOO", "--print-config"]);
    variable("KINTSUGI_LOG", "kintsugi=loud", &["KINTSUGI_LOG", "write levels such as"]);
}

#[test]
fn a_model_that_cannot_be_used_is_named() {
    let model = |name: &str, words: &[&str]| {
        with(&[]).flags(&["--model", name]).is_refused(3, words);
    };
    model("gone.gguf", &["there is no model \"gone.gguf\"", "give the path of a GGUF file"]);
    model("desk", &["there is no model \"desk\""]);
    model("desk/goals.jsonl", &["desk/goals.jsonl is damaged", "fetch the file again"]);
    let cut = with(&[]);
    let whole = std::fs::read(example().join("../../models/kintsugi-nano.gguf")).unwrap();
    std::fs::write(cut.path().join("cut.gguf"), &whole[..whole.len() / 2]).unwrap();
    cut.flags(&["--model", "cut.gguf"]).is_refused(3, &["cut.gguf is damaged", "fetch the file again"]);
    with(&[("kintsugi.toml", "[model]\nname = \"gone.gguf\"\n")]).is_refused(3, &["\"gone.gguf\""]);
    // The model is fine, the setting is not.
    with(&[]).flags(&["--memory-budget", "1.5MiB"]).is_refused(2, &["1.5 MiB", "raise the budget to"]);
}

#[test]
fn the_memory_budget_that_is_advised_is_enough() {
    let attempt = with(&[]);
    let arguments = ["run", "desk", "--data-dir", "data", "--quiet", "--memory-budget"];
    let told = ask(attempt.path(), &join(&[&arguments, &["2.5MiB"]]));
    told.is_refused(2, &["flag --memory-budget: "]);
    let (_, advice) = told.err.split_once("(--memory-budget ").unwrap();
    let advised = advice.trim_end().trim_end_matches(')');
    assert!(ask(attempt.path(), &join(&[&arguments, &[advised]])).done().starts_with("1 goals"));
}

#[test]
fn a_mistake_in_the_agents_is_told_with_its_file() {
    let agent = |text: &str, words: &[&str]| {
        let words = join(&[&["desk/agents/echo.toml"], words]);
        with(&[("agents/echo.toml", text)]).is_refused(2, &words);
    };
    agent("kind = \"echo\"\nprompt = \"x\"\ncoutn = 2\n", &["line 3", "did you mean `count`?"]);
    agent("kind = \"echo\"\n", &["missing field `prompt`"]);
    agent("kind = \"echo\"\nprompt = 3\n", &["line 2", "invalid type"]);
    agent(
        "kind = \"echo\"\nprompt = \"x\"\ntools = [\"look\"]\n",
        &["there is no tool `look`", "desk/tools/look.toml"],
    );
    agent("kind = \"echo\"\nprompt = \"x\"\ncount = 0\n", &["`count` is 0"]);
    with(&[("agents/more.toml", AGENT)]).is_refused(2, &["desk/agents/more.toml", "kind `echo`"]);
    with(&[]).without("agents/echo.toml").is_refused(2, &["desk/agents declares no kind of agent"]);
}

#[test]
fn a_limit_that_no_goal_can_be_worked_under_is_named_with_its_file() {
    let limits = |line: &str, words: &[&str]| {
        let words = join(&[&["desk/agents/echo.toml: "], words]);
        with(&[("agents/echo.toml", &format!("{AGENT}[limits]\n{line}\n"))]).is_refused(2, &words);
    };
    limits("steps_max = 0", &["`limits.steps_max` is 0", "at least 1"]);
    limits("tokens_max = 0", &["`limits.tokens_max` is 0"]);
    limits("seconds_max = nan", &["`limits.seconds_max` is NaN", "above 0"]);
    limits("usd_max = 0.0", &["`limits.usd_max` is 0"]);
    limits("answer_tokens_max = 0", &["`limits.answer_tokens_max` is 0"]);
    limits("queue_max = 0", &["`limits.queue_max` is 0"]);
    limits("attempts_max = 0", &["`limits.attempts_max` is 0"]);
    limits("park_ms = 9223372036854775807", &["`limits.park_ms` is 9223372036854775807", "at most a week"]);
}

#[test]
fn a_context_without_room_for_prompt_and_answer_is_told_with_what_can_be_changed() {
    let small = with(&[("kintsugi.toml", "[model]\ncontext_tokens = 100\n")]);
    small.is_refused(
        2,
        &[
            "desk/agents/echo.toml: ",
            "an answer up to 160 (`limits.answer_tokens_max`)",
            "the context has 100",
            "raise `model.context_tokens` in desk/kintsugi.toml",
            "KINTSUGI_MODEL__CONTEXT_TOKENS",
        ],
    );
    // Whatever the setting says, the model has an end.
    let large = with(&[
        ("kintsugi.toml", "[model]\ncontext_tokens = 1000000\n"),
        ("agents/echo.toml", &format!("{AGENT}[limits]\nanswer_tokens_max = 900000\n")),
    ]);
    large.is_refused(2, &["desk/agents/echo.toml: ", "900000", "the model takes no longer one"]);
}

#[test]
fn a_mistake_in_the_tools_is_told_with_file_and_key() {
    let tool = |text: &str, words: &[&str]| {
        let words = join(&[&["desk/tools/look.toml: "], words]);
        with(&[("tools/look.toml", text)]).is_refused(2, &words);
    };
    let named = "name = \"look\"\ndescription = \"x\"\n";
    let http = format!("{named}kind = \"http\"\nmethod = \"GET\"\nurl = \"http://localhost/x\"\n");
    let sql = format!("{named}kind = \"sql\"\nmode = \"read\"\ndatabase = \"gone.db\"\n");
    tool(&http, &["`safety` is missing", "read_only"]);
    tool(&format!("{http}safety = \"read_only\"\ntimeot_ms = 1\n"), &["did you mean `timeout_ms`?"]);
    tool(&format!("{http}safety = \"harmless\"\n"), &["`safety`", "unkeyed"]);
    tool("name = \"look\"\nkind = \"sqll\"\n", &["`kind`", "did you mean `sql`?"]);
    tool("name =\n", &["line 1"]);
    tool(
        &format!("{sql}[result]\nsql = \"SELECT 1\"\n"),
        &["`database` names gone.db", "no file data/files/gone.db", "put gone.db at the top of the example"],
    );
    // One look mends all of them.
    with(&[("tools/a.toml", "kind = \"sqll\"\n"), ("tools/b.toml", "kind = \"htp\"\n")])
        .is_refused(2, &["desk/tools/a.toml: ", "desk/tools/b.toml: "]);
}

#[test]
fn a_mistake_in_the_policies_is_told_with_file_and_line() {
    let policy = |text: &str, words: &[&str]| with(&[("policies/p.yaml", text)]).is_refused(2, words);
    let one = "policies:\n  - name: a\n    priority: 1\n    when: { fault_type: tool_failure }\n";
    policy(&format!("{one}    action: retri\n"), &["desk/policies/p.yaml:5:", "did you mean \"retry\"?"]);
    policy(&format!("{one}    acton: retry\n"), &["desk/policies/p.yaml:5:", "did you mean \"action\"?"]);
    policy(
        &format!("{one}    action: retry\n    parameters: {{ attempts: 0 }}\n"),
        &["desk/policies/p.yaml:2:", "attempts is 0"],
    );
    policy("policies: [\n", &["desk/policies/p.yaml:1:"]);
    with(&[("policies/a.yaml", "policies: []\n"), ("policies/b.yaml", "policies: []\n")])
        .is_refused(2, &["desk/policies/b.yaml", "one file of policies"]);
    // Both endings of YAML are read.
    with(&[("policies/p.yml", "policies: [\n")]).is_refused(2, &["desk/policies/p.yml:1:"]);
    with(&[("policies/a.yaml", "policies: []\n"), ("policies/b.yml", "policies: []\n")])
        .is_refused(2, &["desk/policies/b.yml", "one file of policies"]);
}

#[test]
fn data_that_was_mended_after_a_failed_start_is_taken_anew() {
    let look = "name = \"look\"\ndescription = \"x\"\nkind = \"sql\"\nmode = \"read\"\ndatabase = \"words.db\"\n\
                [result]\nsql = \"SELECT word FROM words\"\n";
    let attempt = with(&[("tools/look.toml", look)]);
    let make = |sql: &str| {
        let database = rusqlite::Connection::open(attempt.path().join("desk/words.db")).unwrap();
        database.execute_batch(sql).unwrap();
        database.close().unwrap();
    };
    make("CREATE TABLE wrods (word TEXT)");
    attempt.is_refused(2, &["desk/tools/look.toml: ", "no such table: words"]);
    // As if the first start had been killed.
    let copy = attempt.path().join("data/files/words.db");
    std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
    std::fs::copy(attempt.path().join("desk/words.db"), &copy).unwrap();
    std::fs::write(copy.with_extension("db-wal"), "left over").unwrap();
    make("ALTER TABLE wrods RENAME TO words; INSERT INTO words VALUES ('mended')");
    let arguments = ["run", "desk", "--data-dir", "data", "--quiet", "--format", "json"];
    let told = ask(attempt.path(), &arguments).document();
    assert_eq!((&told["goals"]["submitted"], &told["resumed"]), (&1.into(), &false.into()));
    let copy = rusqlite::Connection::open(copy).unwrap();
    let word: String = copy.query_row("SELECT word FROM words", [], |row| row.get(0)).unwrap();
    assert_eq!(word, "mended");
}
