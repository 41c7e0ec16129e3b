//! What can be typed. Settings that are resolved from it live in [`crate::settings`].

mod models;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kintsugi_runtime::StageName;
use kintsugi_types::{ByteCount, EventId};

pub(crate) use self::models::{InspectArguments, ModelsArguments, ModelsCommand, PullArguments};
use crate::log_choice::LogChoice;

/// Keeps thousands of AI agents alive on one machine and mends the ones that break.
#[derive(Debug, Parser)]
#[command(name = "kintsugi", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Work an example's goals to the end: start a node in this process, publish, run, print a summary
    Run(RunArguments),
    /// The same node, long-lived, with its HTTP API
    Up(UpArguments),
    /// A healing stage as a process of its own, beside nodes on a cluster that leave it alone
    Stage(StageArguments),
    /// Goals and their results
    #[command(subcommand)]
    Goals(GoalsCommand),
    /// Agents: state, health and its five parts, current goal, last seams
    #[command(subcommand)]
    Agents(AgentsCommand),
    /// Healed faults: metric, anomaly, diagnosis, recovery, and what came of it
    Seams(SeamsArguments),
    /// Events of topics as JSON lines
    Watch(WatchArguments),
    /// GGUF files: what they are, what they need in memory, and how to get them
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Input that could not be taken
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// The topics on a Kafka cluster
    #[command(subcommand)]
    Topics(TopicsCommand),
    /// Break an example on purpose, again and again, and tell what became of each fault
    Chaos(ChaosArguments),
    /// What is missing on this machine, and the command that mends it
    Doctor(DoctorArguments),
    /// Completions for a shell, to stdout
    Completions(CompletionsArguments),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// For programs: one JSON document, or JSON lines for lists
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArgument {
    /// Plans are written down as abandoned, nothing is done
    Observe,
    /// Plans are shown to a person
    Recommend,
    /// Acts on what is not critical
    ActNoncritical,
    /// Acts
    Act,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// The example's folder
    pub(crate) dir: PathBuf,
    /// Goals, one JSON object a line, instead of the example's
    #[arg(long, value_name = "FILE")]
    pub(crate) goals: Option<PathBuf>,
    /// How many goals: the first of the file, or the file over again with new ids
    #[arg(long, value_name = "N")]
    pub(crate) goal_count: Option<usize>,
    #[command(flatten)]
    pub(crate) node: NodeArguments,
}

/// What `run` and `up` have in common.
#[derive(Debug, Args)]
pub(crate) struct NodeArguments {
    /// How many agents in all, shared out among the kinds as the example does
    #[arg(long, value_name = "N")]
    pub(crate) agents: Option<u32>,
    /// How many agents are on the model at the same time
    #[arg(long, value_name = "N")]
    pub(crate) slots: Option<usize>,
    /// Memory that the models may take: bytes, or with a unit such as 512MiB or 1.5GiB
    #[arg(long, value_name = "BYTES")]
    pub(crate) memory_budget: Option<ByteCount>,
    /// A GGUF file, or the name of a shipped or pulled model
    #[arg(long, value_name = "PATH|NAME")]
    pub(crate) model: Option<String>,
    /// A second, smaller model for agents on lighter work; it has a part of the memory
    #[arg(long, value_name = "PATH|NAME")]
    pub(crate) smaller_model: Option<String>,
    /// Breaks a step on purpose with this probability, in [0, 1]; the same seed breaks the same steps
    #[arg(long, value_name = "P", value_parser = probability)]
    pub(crate) chaos: Option<f64>,
    /// Seed of all draws
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// Where the node's data lives; what is unfinished there goes on
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The log: `embedded`, or a Kafka cluster as `kafka://HOST:PORT,…`
    #[arg(long, value_name = "LOG", default_value = "embedded")]
    pub(crate) log: LogChoice,
    /// How much the system may do by itself
    #[arg(long, value_enum)]
    pub(crate) mode: Option<ModeArgument>,
    /// How it is told what the node did, or where it listens
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// No progress
    #[arg(long)]
    pub(crate) quiet: bool,
}

fn probability(text: &str) -> Result<f64, String> {
    let found: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.0..=1.0).contains(&found) { Ok(found) } else { Err("a probability lies in [0, 1]".to_owned()) }
}

#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    /// The folder of agents, tools, policies and data, such as an example's
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Where the HTTP API listens; any other address than this machine's own needs a token
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    /// Show each setting with its origin, and start nothing
    #[arg(long)]
    pub(crate) print_config: bool,
    #[command(flatten)]
    pub(crate) node: NodeArguments,
}

/// A healing stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StageArgument {
    /// From metrics to anomalies
    Monitor,
    /// From anomalies to diagnoses
    Diagnose,
    /// From diagnoses to recoveries
    Recover,
}

impl From<StageArgument> for StageName {
    fn from(stage: StageArgument) -> Self {
        match stage {
            StageArgument::Monitor => Self::Monitor,
            StageArgument::Diagnose => Self::Diagnose,
            StageArgument::Recover => Self::Recover,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct StageArguments {
    /// Which stage
    #[arg(value_enum, value_name = "STAGE")]
    pub(crate) stage: StageArgument,
    /// The folder of `kintsugi.toml` and policies, such as an example's: that of the nodes
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// The cluster, as `kafka://HOST:PORT,…`
    #[arg(long, value_name = "LOG", default_value = "embedded")]
    pub(crate) log: LogChoice,
    /// Where its cache lives; .kintsugi/stage-STAGE where nothing is said
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// How much the system may do by itself; for `recover`
    #[arg(long, value_enum)]
    pub(crate) mode: Option<ModeArgument>,
    /// Seed of all draws; for `recover`
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// Show each setting with its origin, and start nothing
    #[arg(long)]
    pub(crate) print_config: bool,
    /// How it is told where it lives
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// No progress
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// Which run is looked at.
#[derive(Debug, Args)]
pub(crate) struct Where {
    #[command(flatten)]
    pub(crate) log: LogArguments,
    /// How it is written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GoalsCommand {
    /// Publish goals, one JSON object a line
    Publish(PublishArguments),
    /// Every goal with its state, and whether what came is what was expected
    List(GoalsArguments),
    /// One goal with its result
    Show(GoalArguments),
}

#[derive(Debug, Args)]
pub(crate) struct GoalsArguments {
    /// Only goals whose outcome is not what they expected
    #[arg(long)]
    pub(crate) wrong: bool,
    /// Only goals in this state
    #[arg(long, value_enum, value_name = "STATE")]
    pub(crate) status: Option<GoalState>,
    #[command(flatten)]
    pub(crate) place: Where,
}

/// What a goal is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GoalState {
    /// No agent has it yet
    Published,
    /// It waits for its agent
    Queued,
    /// Its agent works it
    Running,
    /// Its agent finished it
    Completed,
    /// A limit, a deadline or an unknown outcome ended it
    Partial,
    /// Its agent was quarantined
    Failed,
    /// Nobody could take it
    Refused,
}

impl GoalState {
    /// The word that is shown.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PublishArguments {
    /// The file; - is stdin
    #[arg(default_value = "-")]
    pub(crate) file: PathBuf,
    /// The running node to publish to; its token is taken from `KINTSUGI_HTTP_TOKEN`
    #[arg(long, value_name = "URL", conflicts_with_all = ["data_dir", "log"])]
    pub(crate) url: Option<String>,
    #[command(flatten)]
    pub(crate) log: LogArguments,
    /// How it is told what was published
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct GoalArguments {
    /// The goal's id
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) place: Where,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentsCommand {
    /// Every agent that ever had work
    List(Where),
    /// One agent
    Show(AgentArguments),
    /// Bring an agent back that is quarantined, through the node that runs it
    Resume(ResumeArguments),
}

#[derive(Debug, Args)]
pub(crate) struct AgentArguments {
    /// The agent's id
    pub(crate) id: String,
    /// The agent as it was after this event of its journal, from 1
    #[arg(long, value_name = "SEQ")]
    pub(crate) at: Option<u64>,
    #[command(flatten)]
    pub(crate) place: Where,
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArguments {
    /// The agent's id
    pub(crate) id: String,
    /// The node that runs it; its token is taken from `KINTSUGI_HTTP_TOKEN`
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7878")]
    pub(crate) url: String,
    /// How it is written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct SeamsArguments {
    /// One seam from what was measured to what came of it
    #[arg(long, value_name = "ID", conflicts_with = "agent")]
    pub(crate) explain: Option<String>,
    /// Only those of this agent, or of a shared part such as `tool:NAME`
    #[arg(long, value_name = "ID")]
    pub(crate) agent: Option<String>,
    #[command(flatten)]
    pub(crate) place: Where,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArguments {
    /// Topics, with or without the prefix `kintsugi.`
    #[arg(required = true, value_name = "TOPIC")]
    pub(crate) topics: Vec<kintsugi_events::Topic>,
    /// Begin with the oldest event rather than now
    #[arg(long)]
    pub(crate) from_beginning: bool,
    /// Stop at the newest event
    #[arg(long)]
    pub(crate) until_end: bool,
    #[command(flatten)]
    pub(crate) log: LogArguments,
}

/// Which log is looked at.
#[derive(Debug, Args)]
pub(crate) struct LogArguments {
    /// The log: `embedded`, or a Kafka cluster as `kafka://HOST:PORT,…`
    #[arg(long, value_name = "LOG", default_value = "embedded")]
    pub(crate) log: LogChoice,
    /// The folder whose `kintsugi.toml` says how the cluster is spoken to
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// The run's folder; without it the newest run below .kintsugi
    #[arg(long, value_name = "DIR", conflicts_with = "dir")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// Every dead letter with its source and the reason
    List(Where),
    /// One dead letter with the original
    Show(LettersArguments),
    /// Publish the goal of a dead letter once more
    Replay(ReplayArguments),
}

#[derive(Debug, Args)]
pub(crate) struct LettersArguments {
    /// The letter's id
    pub(crate) id: EventId,
    #[command(flatten)]
    pub(crate) place: Where,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    /// The letter's id
    pub(crate) id: EventId,
    /// The running node to publish to; its token is taken from `KINTSUGI_HTTP_TOKEN`
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    #[command(flatten)]
    pub(crate) log: LogArguments,
    /// How it is told what was published
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopicsCommand {
    /// Make the topics that are missing
    Create(TopicsArguments),
}

#[derive(Debug, Args)]
pub(crate) struct TopicsArguments {
    /// The cluster, as `kafka://HOST:PORT,…`
    #[arg(long, value_name = "LOG")]
    pub(crate) log: LogChoice,
    /// The folder whose `kintsugi.toml` says how the cluster is spoken to
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// How many partitions each topic has, for ever: an agent's partition follows from it
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) partitions: u32,
    /// On how many brokers each partition lies; the cluster's default where nothing is said
    #[arg(long, value_name = "N")]
    pub(crate) replication: Option<u16>,
    /// For how long records are kept, in hours, but for the journal's; for ever where nothing is said
    #[arg(long, value_name = "HOURS")]
    pub(crate) retention_hours: Option<u64>,
    /// How it is told what was made
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct ChaosArguments {
    /// The example's folder
    pub(crate) dir: PathBuf,
    /// How many runs with faults, each with the next seed; one without comes first
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) runs: u64,
    /// Breaks a step with this probability, in [0, 1]
    #[arg(long, value_name = "P", default_value_t = 0.2, value_parser = probability)]
    pub(crate) chaos: f64,
    /// Seed of the first run
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
    /// How many goals: the first of the example's, or all over again with new ids
    #[arg(long, value_name = "N")]
    pub(crate) goal_count: Option<usize>,
    /// How much the system may do by itself
    #[arg(long, value_enum, default_value = "act")]
    pub(crate) mode: ModeArgument,
    /// Run each seed in this mode as well, and compare
    #[arg(long, value_enum, value_name = "MODE")]
    pub(crate) compare: Option<ModeArgument>,
    /// How it is written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// Keep the runs, to be looked at
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// How it is written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}
