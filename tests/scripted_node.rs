//! A node whose model follows a script: everything else about it is real.
//!
//! The script works a goal in three steps: it charges over HTTP (unkeyed: may never be repeated), records in SQLite
//! (keyed), and finishes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use kintsugi_agent::prompt::{Action, FINISH, decision_text};
use kintsugi_agent::{KindConfig, Limits, Prices};
use kintsugi_chaos::FaultPlan;
use kintsugi_eventlog::EventLog;
use kintsugi_events::health::HealthThresholds;
use kintsugi_events::{ActionCall, Goal, Mode};
use kintsugi_gpu_scheduler::{RebuildPolicy, SchedulerConfig, scripted};
use kintsugi_monitor::MonitorSettings;
use kintsugi_recover::PolicySet;
use kintsugi_runtime::config::{CommandProbe, EffectProbe};
use kintsugi_runtime::node::NodeParts;
use kintsugi_runtime::{AskSettings, Lanes, Node, NodeConfig, Population, SharedPolicies, Stages};
use kintsugi_tools::{DatabaseSource, LoadContext, Registry};
use kintsugi_types::{
    AgentKind, ByteCount, CompletionRequest, GoalId, RetryPolicy, Role, SystemClock, TenantId, ToolName,
};
use serde_json::{Value, json};

use crate::audit::Audit;

/// Agents that share the goals.
pub const AGENTS: u32 = 6;

/// Policies with times that suit a test, and that no tuning of an example moves.
const POLICIES: &str = include_str!("../crates/recover/tests/short.yaml");

/// How a scripted node differs from the ordinary.
#[derive(Debug, Default)]
pub struct Wiring {
    /// Called before each decision.
    pub before_decide: Option<CommandProbe>,
    /// Called at each boundary of an effect.
    pub effect_probe: Option<EffectProbe>,
    /// How long a parked agent waits before it helps itself, in milliseconds; 30 s where missing.
    pub park_ms: Option<u64>,
    /// The longest wait for a tool, in milliseconds; 30 s where missing.
    pub tool_ms_max: Option<u64>,
    /// Tool calls at the same time; 4 where missing.
    pub tool_threads: Option<usize>,
    /// How much the node does by itself.
    pub mode: Mode,
    /// Faults on purpose.
    pub chaos: Option<FaultPlan>,
    /// Whether no policy applies to anything, so that the cascade mends.
    pub without_policies: bool,
    /// Which healing stages run; all unless said.
    pub stages: Stages,
    /// When the model is asked for a diagnosis; never unless said.
    pub ask: Option<AskSettings>,
}

/// The declaration of the script's HTTP tool at `url`: how it may be repeated, and how long it may take.
pub fn charge_tool(url: &str, safety: &str, timeout_ms: u64) -> String {
    format!(
        "name = \"charge\"\nkind = \"http\"\ndescription = \"charge the customer\"\nsafety = \"{safety}\"\nmethod = \"POST\"\n\
         url = \"{url}/charge/{{number}}\"\ntimeout_ms = {timeout_ms}\n\n[parameters]\nrequired = [\"number\"]\n\
         [parameters.properties.number]\ntype = \"integer\"\n"
    )
}

/// Writes the two tools of the script to `folder/tools`, with the HTTP one at `url`, and the database that the other
/// one writes to.
pub fn prepare(folder: &Path, url: &str) -> Result<()> {
    prepare_with(folder, &charge_tool(url, "unkeyed", 20_000))
}

/// Prepares `folder` as [`prepare`] does, with `charge` as the declaration of the HTTP tool.
pub fn prepare_with(folder: &Path, charge: &str) -> Result<()> {
    let tools = folder.join("tools");
    std::fs::create_dir_all(&tools).context("create tools")?;
    let record = "name = \"record\"\nkind = \"sql\"\ndescription = \"record the charge\"\ndatabase = \"ledger.db\"\n\
         mode = \"write\"\n\n[parameters]\nrequired = [\"number\"]\n[parameters.properties.number]\ntype = \"integer\"\n\n\
         [[write]]\nsql = \"INSERT INTO ledger (effect, number) VALUES (:effect, :number)\"\n\n[result]\n\
         value = { recorded = true }\n";
    std::fs::write(tools.join("charge.toml"), charge).context("write tool")?;
    std::fs::write(tools.join("record.toml"), record).context("write tool")?;
    let database = rusqlite::Connection::open(folder.join("ledger.db")).context("open ledger")?;
    database
        .execute_batch("CREATE TABLE IF NOT EXISTS ledger (effect TEXT PRIMARY KEY, number INTEGER NOT NULL)")
        .context("create ledger")
}

/// Rows of the ledger, by number.
pub fn ledger(folder: &Path) -> Result<BTreeMap<i64, usize>> {
    let database = rusqlite::Connection::open(folder.join("ledger.db")).context("open ledger")?;
    let mut statement = database.prepare("SELECT number, count(*) FROM ledger GROUP BY number")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))?;
    rows.map(|row| {
        row.map(|(number, count)| (number, usize::try_from(count).unwrap_or(0))).map_err(Into::into)
    })
    .collect()
}

/// Goals `1..=count` for the script.
pub fn goals(count: usize) -> Result<Vec<Goal>> {
    goals_from(1, count)
}

/// So many goals for the script, from number `first` on.
pub fn goals_from(first: usize, count: usize) -> Result<Vec<Goal>> {
    (first..first + count)
        .map(|number| {
            let mut goal: Goal = serde_json::from_value(json!({"text": format!("charge {number}")}))?;
            goal.id = Some(GoalId::new(format!("goal-{number}"))?);
            goal.input.insert("number".to_owned(), json!(number));
            Ok(goal)
        })
        .collect()
}

/// What the scripted model answers: it reads the number from the goal, and how far it is from the prompt.
pub fn answer(request: &CompletionRequest) -> String {
    let number: Value = request
        .messages
        .iter()
        .find(|message| message.role == Role::User)
        .and_then(|goal| goal.content.rsplit(' ').next())
        .and_then(|number| number.parse::<i64>().ok())
        .map_or(Value::Null, Value::from);
    let said = request.messages.iter().filter(|message| message.role == Role::Assistant).count();
    let tool = match said {
        0 => "charge",
        1 => "record",
        _ => FINISH,
    };
    let action = match ToolName::new(tool) {
        Ok(name) if tool != FINISH => {
            Action::Call(ActionCall { tool: name, args: json!({ "number": number }) })
        }
        _ => Action::Finish { answer: format!("charged {number}") },
    };
    decision_text(&format!("step {said} of {number}"), &action)
}

/// The tools that were prepared in `folder`.
pub fn tools(folder: &Path) -> Result<Registry> {
    let databases = DatabaseSource::Folder(folder.to_owned());
    let context = LoadContext { databases: &databases, secrets: &|_| None };
    Ok(Registry::load(&folder.join("tools"), &context)?)
}

/// The parts of a scripted node that lives in `folder`.
pub fn parts(folder: &Path, log: Arc<dyn EventLog>, wiring: Wiring) -> Result<NodeParts> {
    parts_with(folder, log, tools(folder)?, AGENTS, answer, wiring)
}

/// The parts of a node with these tools, so many agents, and a model that answers by `answer`. All agents may be at
/// work at once.
pub fn parts_with(
    folder: &Path,
    lanes: impl Into<Lanes>,
    tools: Registry,
    agents: u32,
    answer: impl Fn(&CompletionRequest) -> String + Send + Sync + 'static,
    wiring: Wiring,
) -> Result<NodeParts> {
    let slots = usize::try_from(agents)?.clamp(1, 64);
    let kind = AgentKind::new("clerk")?;
    let mut specs: Vec<_> = tools.specs().cloned().collect();
    specs.sort_by(|a, b| a.name.cmp(&b.name));
    let config = KindConfig {
        kind: kind.clone(),
        instructions: "You charge customers.".to_owned(),
        tools: specs,
        limits: Limits {
            park_ms: wiring.park_ms.unwrap_or(30_000),
            steps_max: 64,
            tokens_max: u64::MAX,
            ..Limits::default()
        },
        prices: Prices::default(),
        thresholds: HealthThresholds::default(),
        temperature: 0.0,
        top_p: 1.0,
        population: 1,
        context_tokens: 4096,
        smaller: None,
    };
    Ok(NodeParts {
        config: NodeConfig {
            store_dir: folder.join("store"),
            tenant: TenantId::default(),
            kinds: BTreeMap::from([(kind.clone(), Arc::new(config))]),
            population: vec![Population { kind, count: agents }],
            policies: SharedPolicies::new(Arc::new(if wiring.without_policies {
                PolicySet::default()
            } else {
                PolicySet::parse(POLICIES, "short.yaml")?
            })),
            stages: wiring.stages,
            monitor: MonitorSettings::default(),
            ask: wiring.ask,
            mode: wiring.mode,
            runnable_max: slots * 2,
            seed: 1,
            restart: RetryPolicy {
                attempts_max: 6,
                first_delay_ms: 1,
                factor: 2.0,
                delay_max_ms: 100,
                jitter: 0.5,
            },
            restart_window_ms: 10_000,
            tool_threads: wiring.tool_threads.unwrap_or(4),
            tool_ms_max: wiring.tool_ms_max.unwrap_or(30_000),
            chaos: wiring.chaos,
            before_decide: wiring.before_decide,
            effect_probe: wiring.effect_probe,
        },
        lanes: lanes.into(),
        tools: Arc::new(tools),
        scheduler: SchedulerConfig {
            slots,
            queue_max: slots * 8,
            lease_ms_max: 10_000,
            memory_budget: ByteCount::mib(512),
            rebuild: RebuildPolicy::default(),
        },
        backend: scripted::instant(answer),
        smaller: None,
        clock: Arc::new(SystemClock),
    })
}

/// Works `goals` on a node of these parts until all are settled and `during`, which sees the node again and again,
/// says that nothing else is to come. Then stops the node and audits its log.
///
/// Fails where the node ends by itself or takes longer than `patience`, and where it breaks what every run promises:
/// no invariant is broken, nothing in the log contradicts itself, and each goal has one result.
pub fn work(
    parts: NodeParts,
    goals: &[Goal],
    patience: Duration,
    during: &mut dyn FnMut(&Node) -> bool,
) -> Result<Audit> {
    let Lanes::Only(log) = &parts.lanes else { bail!("these lanes come and go") };
    let log = log.clone();
    let node = Node::start(parts)?;
    node.publish(goals)?;
    let begun = Instant::now();
    loop {
        let is_settled = node.status().goals_settled() >= goals.len() as u64;
        let is_enough = during(&node);
        if is_settled && is_enough {
            break;
        }
        ensure!(!node.has_ended(), "the node ended by itself: {:?}", node.status());
        ensure!(begun.elapsed() < patience, "not done in time: {:?}", Audit::of(log.as_ref())?);
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let violations = node.invariants().total();
    node.stop();
    ensure!(violations == 0, "{violations} invariants were broken");
    let audit = Audit::of(log.as_ref())?;
    ensure!(audit.contradictions.is_empty(), "{:?}", audit.contradictions);
    ensure!(audit.goals.len() == goals.len(), "{} of {} goals were taken", audit.goals.len(), goals.len());
    for (goal, results) in &audit.goals {
        ensure!(results.len() == 1, "goal {goal} has {} results", results.len());
    }
    Ok(audit)
}
