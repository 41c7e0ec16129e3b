//! `goals publish`: JSON lines to a running node, or into the log of one that does not run.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;

use kintsugi_eventlog::embedded::Options;
use kintsugi_eventlog::{Append, EmbeddedLog, EventLog as _, LogError, NewRecord};
use kintsugi_runtime::LanePlace;
use kintsugi_runtime::publish::{content_of, goal_event};
use kintsugi_types::{GoalId, SystemClock, TenantId};
use serde_json::json;

use crate::cli::{Format, LogArguments, PublishArguments};
use crate::client::Client;
use crate::cluster::ClusterWriter;
use crate::failure::{Explain, Failure};
use crate::goal_check::{self, GOAL_BYTES_MAX, Refusal};
use crate::log_choice::LogChoice;
use crate::roster::Roster;
use crate::run_folder::{RunFolder, manifest_of, to_look_at};
use crate::terminal::line_if_read;
use crate::view::RunView;

/// What became of a goal.
pub(crate) struct Published {
    pub(crate) id: String,
    pub(crate) is_known: bool,
}

/// Where goals go.
pub(crate) enum Target {
    Node(Client),
    Log(Box<Writer>),
    Cluster(Box<ClusterWriter>),
}

impl Target {
    /// The node at `url`, else the log that is named.
    pub(crate) fn open(url: Option<&str>, log: &LogArguments) -> Result<Self, Failure> {
        Ok(match (url, &log.log) {
            (Some(url), _) => Self::Node(Client::new(url)),
            (None, LogChoice::Embedded) => Self::Log(Box::new(Writer::open(log.data_dir.as_deref())?)),
            (None, LogChoice::Kafka(brokers)) => {
                Self::Cluster(Box::new(ClusterWriter::open(brokers, &log.dir)?))
            }
        })
    }

    /// Publishes one goal; it is durable when this returns.
    pub(crate) fn publish(&mut self, text: &str) -> Result<Published, Failure> {
        match self {
            Self::Node(client) => ask(client, text),
            Self::Log(writer) => writer.publish(text),
            Self::Cluster(writer) => writer.publish(text),
        }
    }

    /// Lets go of it.
    pub(crate) fn close(self) -> Result<(), Failure> {
        match self {
            Self::Log(writer) => Ok(writer.log.close()?),
            Self::Node(_) | Self::Cluster(_) => Ok(()),
        }
    }
}

pub(crate) fn publish(arguments: &PublishArguments) -> Result<(), Failure> {
    let mut target = Target::open(arguments.url.as_deref(), &arguments.log)?;
    let name = arguments.file.display().to_string();
    let mut lines = Lines::open(&arguments.file)?;
    let (mut published, mut known) = (0_u64, 0_u64);
    let mut is_read = true;
    while let Some((number, text)) = lines.next()? {
        let goal = target.publish(&text).map_err(|failure| Failure {
            message: format!(
                "{name}:{number}: {}; {published} goals were published before it, which a second try does not \
                 repeat where they have ids",
                failure.message
            ),
            ..failure
        })?;
        *if goal.is_known { &mut known } else { &mut published } += 1;
        if arguments.format == Format::Json && is_read {
            // Goals are published to the end, whether somebody reads what became of them or not.
            is_read = line_if_read(&json!({"id": goal.id, "is_known": goal.is_known}).to_string())?;
        }
    }
    target.close()?;
    if arguments.format == Format::Text {
        line_if_read(&format!("{published} goals published, {known} were known"))?;
    }
    Ok(())
}

/// Publishes one goal to a running node.
fn ask(client: &Client, text: &str) -> Result<Published, Failure> {
    let told = client.post("/v1/goals", text)?;
    if told.is_done() {
        let id = told.document.get("id").and_then(|id| id.as_str()).unwrap_or_default().to_owned();
        let is_known = told.document.get("is_known").and_then(serde_json::Value::as_bool).unwrap_or(false);
        return Ok(Published { id, is_known });
    }
    Err(match told.status {
        429 | 500.. => Failure::outside(told.detail()),
        _ => Failure::usage(told.detail()),
    })
}

/// The log of a node that does not run.
pub(crate) struct Writer {
    log: EmbeddedLog,
    /// The content of every goal that is in it.
    known: HashMap<GoalId, u64>,
    /// Who worked here when the node ran last; not known of a folder that an older version wrote.
    roster: Option<Roster>,
}

impl Writer {
    fn open(data_dir: Option<&Path>) -> Result<Self, Failure> {
        let folder = to_look_at(data_dir)?;
        let Some(manifest) = manifest_of(&folder)?.filter(|manifest| manifest.is_served) else {
            return Err(Failure::usage(format_args!(
                "{} holds a run, whose goals are fixed: name the folder of a node that `kintsugi up` runs with \
                 --data-dir, or a running node with --url",
                folder.display()
            )));
        };
        let log = EmbeddedLog::open(RunFolder::log(&folder), Options::default()).map_err(|error| {
            let is_running = matches!(error, LogError::Locked { .. });
            let failure = Failure::from(error);
            let hint = if is_running {
                "; publish to the running node with --url http://127.0.0.1:7878"
            } else {
                ""
            };
            Failure { message: format!("{}{hint}", failure.message), ..failure }
        })?;
        let view = RunView::read(&log)?;
        let known = view.goals.iter().map(|(id, goal)| (id.clone(), content_of(&goal.goal))).collect();
        Ok(Self { log, known, roster: manifest.roster })
    }

    /// Publishes one goal; it is durable when this returns.
    fn publish(&mut self, text: &str) -> Result<Published, Failure> {
        let members = serde_json::from_str(text).map_err(|error| {
            Failure::usage(format_args!("no goal: {error}; write one JSON object a line"))
        })?;
        let refused = |refusal: Refusal| Failure::usage(refusal.problem);
        let goal = goal_check::read(&members).map_err(refused)?;
        if goal.tenant != TenantId::default() {
            return Err(Failure::usage(format_args!(
                "the node works for the tenant `{}`: leave `tenant` out",
                TenantId::default()
            )));
        }
        if let Some(roster) = &self.roster {
            roster.check(&goal).map_err(refused)?;
        }
        let content = content_of(&goal);
        if let Some(id) = &goal.id {
            match self.known.get(id) {
                Some(known) if *known == content => {
                    return Ok(Published { id: id.to_string(), is_known: true });
                }
                Some(_) => {
                    return Err(Failure::usage(format_args!(
                        "the id {id} is taken by a goal with other content: give this one an id of its own"
                    )));
                }
                None => {}
            }
        }
        let event = goal_event(&goal, &SystemClock).map_err(Failure::usage)?;
        let records = vec![NewRecord::from_event(&event, LanePlace::ONLY.number)?];
        self.log.append_wait(&Append { records, positions: Vec::new() })?;
        let id = event.envelope.goal.ok_or_else(|| Failure::job("a published goal has no id"))?;
        self.known.insert(id.clone(), content);
        Ok(Published { id: id.to_string(), is_known: false })
    }
}

/// Lines of a file or of stdin, one at a time: a stream of goals may be longer than memory.
struct Lines {
    name: String,
    reader: Box<dyn BufRead>,
    number: u64,
}

impl Lines {
    fn open(file: &Path) -> Result<Self, Failure> {
        let name = file.display().to_string();
        let reader: Box<dyn BufRead> = if name == "-" {
            Box::new(BufReader::new(std::io::stdin()))
        } else {
            let opened = std::fs::File::open(file).map_err(|error| {
                Failure::usage(format_args!("read {name}: {error}; name a file of goals, or - for stdin"))
            })?;
            Box::new(BufReader::new(opened))
        };
        Ok(Self { name, reader, number: 0 })
    }

    /// The next line that is not empty, with its number.
    fn next(&mut self) -> Result<Option<(u64, String)>, Failure> {
        loop {
            let mut text = String::new();
            let mut limited = (&mut self.reader).take(GOAL_BYTES_MAX as u64 + 1);
            let read = limited.read_line(&mut text).outside(|| format!("read {}", self.name))?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if text.len() > GOAL_BYTES_MAX {
                return Err(Failure::usage(format_args!(
                    "{}:{}: a goal has at most {GOAL_BYTES_MAX} bytes",
                    self.name, self.number
                )));
            }
            if !text.trim().is_empty() {
                return Ok(Some((self.number, text)));
            }
        }
    }
}
