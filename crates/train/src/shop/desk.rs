//! A shop with its tools at work on it, in memory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow};
use kintsugi_tools::{DatabaseSource, LoadContext, Registry, SharedConnection, ToolCall, ToolError};
use kintsugi_types::{AgentKind, EffectId, SeededIds, ToolName, ToolSpec};
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::store::write_store;
use super::world::World;

/// The example's declarations of agents and tools, read once.
#[derive(Debug, Clone)]
pub struct Sheets {
    kinds: Vec<KindText>,
    tools: Vec<(PathBuf, String)>,
}

/// The part of an agent's file that matters here; the rest is the runtime's.
#[derive(Debug, Clone, Deserialize)]
struct KindText {
    kind: AgentKind,
    prompt: String,
    tools: Vec<ToolName>,
}

/// What an agent of one kind is told.
#[derive(Debug, Clone, PartialEq)]
pub struct KindSheet {
    /// The kind.
    pub kind: AgentKind,
    /// Its instructions, the first part of the system message.
    pub instructions: String,
    /// Its tools, in the order of the system message.
    pub tools: Vec<ToolSpec>,
}

impl Sheets {
    /// Those of the example that this source tree holds.
    pub fn shipped() -> Result<Self> {
        Self::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/support-desk"))
    }

    /// Those of the example in `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut kinds = Vec::new();
        for (path, text) in read_folder(&folder.join("agents"))? {
            kinds.push(toml::from_str(&text).with_context(|| format!("read {}", path.display()))?);
        }
        Ok(Self { kinds, tools: read_folder(&folder.join("tools"))? })
    }

    fn registry(&self, databases: &DatabaseSource) -> Result<Registry> {
        let context = LoadContext { databases, secrets: &|_| None };
        Ok(Registry::from_documents(&self.tools, &context)?)
    }
}

fn read_folder(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut documents = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            documents.push((path, text));
        }
    }
    documents.sort();
    Ok(documents)
}

/// A shop in memory and the example's tools on top of it.
#[derive(Debug)]
pub struct Desk {
    /// What is in the shop, as it was when it was opened.
    pub world: World,
    /// The place in [`World::orders`] of each order number.
    places: HashMap<u32, usize>,
    connection: SharedConnection,
    registry: Registry,
    ids: SeededIds,
}

impl Desk {
    /// Opens the shop of `world`.
    pub fn open(sheets: &Sheets, world: World) -> Result<Self> {
        let mut connection = Connection::open_in_memory()?;
        // Nothing in memory survives a crash, so there is nothing to sync and no journal to keep on disk.
        connection.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF")?;
        write_store(&mut connection, &world)?;
        let connection = Arc::new(Mutex::new(connection));
        let registry = sheets.registry(&DatabaseSource::Shared(connection.clone()))?;
        let places = world.orders.iter().enumerate().map(|(place, order)| (order.number, place)).collect();
        Ok(Self { ids: SeededIds::new(world.seed), world, places, connection, registry })
    }

    /// What agents of each kind are told, in order of kind.
    pub fn kinds(&self, sheets: &Sheets) -> Result<Vec<KindSheet>> {
        let sheet = |text: &KindText| {
            let spec = |name: &ToolName| {
                let spec = self.registry.spec(name).cloned();
                spec.ok_or_else(|| anyhow!("kind {} has a tool {name} that is not declared", text.kind))
            };
            Ok(KindSheet {
                kind: text.kind.clone(),
                instructions: text.prompt.clone(),
                tools: text.tools.iter().map(spec).collect::<Result<_>>()?,
            })
        };
        sheets.kinds.iter().map(sheet).collect()
    }

    /// Calls a tool under a fresh effect id, as an agent does.
    pub fn call(
        &mut self,
        tool: &ToolName,
        args: Value,
        input: Map<String, Value>,
    ) -> Result<String, ToolError> {
        let call = ToolCall::new(EffectId::new(&mut self.ids), args, input);
        self.registry.call(tool, &call).map(|output| output.text)
    }

    /// The tools.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The database.
    pub fn connection(&self) -> &SharedConnection {
        &self.connection
    }

    /// The order of that number, as it was when the shop was opened.
    pub fn order(&self, number: u32) -> Option<&super::world::Order> {
        self.places.get(&number).and_then(|place| self.world.orders.get(*place))
    }
}
