//! A scripted node on a Kafka cluster, in a process of its own. It works whatever the cluster gives it until its stdin
//! is closed; then it lets go of its lanes in order and exits 0.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use kintsugi_eventlog::EventLog;
use kintsugi_eventlog::kafka::{
    Change, Connection, KafkaLog, Membership, MembershipOptions, Options, topics,
};
use kintsugi_runtime::{Lanes, Node};
use kintsugi_tests::scripted_node::{Wiring, answer, parts_with, tools};

/// Goals in progress at the same time.
const IN_PROGRESS_MAX: usize = 32;

#[derive(Parser)]
struct Arguments {
    /// Where the tools are, and what they write to: shared by the nodes.
    folder: PathBuf,
    /// Where this node's cache lies.
    data: PathBuf,
    #[arg(long)]
    brokers: String,
    #[arg(long)]
    prefix: String,
    /// The node's name in the group.
    #[arg(long)]
    member: String,
    #[arg(long, default_value_t = 6_000)]
    session_timeout_ms: u64,
    #[arg(long, default_value_t = 100)]
    agents: u32,
    /// What is logged to stderr.
    #[arg(long, default_value = "info")]
    log: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_env_filter(arguments.log.as_str())
        .with_writer(std::io::stderr)
        .init();
    let connection = Connection {
        prefix: arguments.prefix.as_str().into(),
        client: arguments.member.as_str().into(),
        ..Connection::new(arguments.brokers.as_str())
    };
    let options = Options::new(connection.clone(), [0]);
    let partitions = topics::check(&connection, options.append_bytes_max, Duration::from_secs(30))?;
    let open = Arc::new(move |number| {
        let log: Arc<dyn EventLog> =
            Arc::new(KafkaLog::open(Options { partitions: vec![number], ..options.clone() })?);
        Ok(log)
    });
    let lanes = Lanes::Shared { partitions, open };
    let tools = tools(&arguments.folder)?;
    // A call that waits for a thread when the node is killed is one of which nobody knows whether it was made.
    let wiring = Wiring { tool_threads: Some(IN_PROGRESS_MAX), ..Wiring::default() };
    let mut parts = parts_with(&arguments.data, lanes, tools, arguments.agents, answer, wiring)?;
    parts.config.runnable_max = IN_PROGRESS_MAX;
    parts.config.store_dir = arguments.data.join("store");
    let node = Arc::new(Node::start(parts)?);
    let gained = node.clone();
    let on_change = Box::new(move |change| match change {
        Change::Gained(lanes) => gained.gain_lanes(&lanes),
        Change::Lost(lanes) => gained.lose_lanes(&lanes),
    });
    let membership = Membership::join(
        MembershipOptions {
            member: Some(arguments.member.as_str().into()),
            session_timeout: Duration::from_millis(arguments.session_timeout_ms),
            ..MembershipOptions::new(connection)
        },
        on_change,
    )?;
    // Nothing is ever written there: it ends when whoever started the node is gone, or wants it to end.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    membership.leave();
    ensure!(!node.has_ended(), "the node ended by itself: {:?}", node.status());
    let broken = node.invariants().total();
    ensure!(broken == 0, "{broken} invariants were broken");
    Ok(())
}
