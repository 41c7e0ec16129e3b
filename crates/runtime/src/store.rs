//! The cache beside the log: dormant agents, known goals, and from where the log has to be replayed.
//!
//! It is never the truth. What it lacks is replayed from the log; a missing or foreign one is made anew.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use kintsugi_agent::{AgentState, STATE_VERSION};
use kintsugi_eventlog::Lsn;
use kintsugi_types::{AgentId, GoalId, TenantId};
use serde::{Deserialize, Serialize};
use tracing::warn;
use zstd::bulk::Compressor;

/// Version of this cache's own form and of the states in it; another one is thrown away and rebuilt.
const FORMAT: u32 = 4 << 16 | STATE_VERSION;

/// The most bytes that a state may have when it is unpacked.
const STATE_BYTES_MAX: usize = 64 << 20;

/// Known goals that are forgotten in one go: nobody can remember one meanwhile.
const FORGOTTEN_AT_ONCE: usize = 256;

/// Level of zstd: the fastest that still makes a third of it.
const ZSTD_LEVEL: i32 = 1;

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database itself failed.
    #[error("agent cache: {what}: {source}")]
    Database {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: fjall::Error,
    },
    /// An entry cannot be read.
    #[error(
        "agent cache: entry of {key} is damaged: {reason}; delete the folder {folder:?}, it is rebuilt from the log"
    )]
    Damaged {
        /// Whose entry.
        key: String,
        /// What is wrong.
        reason: String,
        /// Where the cache lies.
        folder: std::path::PathBuf,
    },
    /// A state cannot be packed.
    #[error("agent cache: pack a state: {0}")]
    Pack(std::io::Error),
}

/// What a goal's id is known to stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownGoal {
    /// First eight bytes of the BLAKE3 of the goal's content.
    pub content: u64,
    /// How often the goal was handed from one agent to another when it was last accepted.
    pub epoch: u32,
    /// Where the log tells that it was accepted.
    pub accepted_at: Lsn,
}

impl KnownGoal {
    fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        let (content, rest) = bytes.split_at_mut(8);
        let (epoch, accepted_at) = rest.split_at_mut(4);
        content.copy_from_slice(&self.content.to_be_bytes());
        epoch.copy_from_slice(&self.epoch.to_be_bytes());
        accepted_at.copy_from_slice(&self.accepted_at.0.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (content, rest) = bytes.split_first_chunk::<8>()?;
        let (epoch, rest) = rest.split_first_chunk::<4>()?;
        let accepted_at = rest.first_chunk::<8>()?;
        Some(Self {
            content: u64::from_be_bytes(*content),
            epoch: u32::from_be_bytes(*epoch),
            accepted_at: Lsn(u64::from_be_bytes(*accepted_at)),
        })
    }
}

/// The cache.
pub struct Store {
    folder: std::path::PathBuf,
    database: Database,
    agents: Keyspace,
    goals: Keyspace,
    stages: Keyspace,
    loaded: Keyspace,
    meta: Keyspace,
    /// Making one takes longer than packing a state.
    packer: Mutex<Compressor<'static>>,
    /// Whether it holds nothing of what the log says yet.
    is_empty: AtomicBool,
    /// Held while anything is changed, so that who forgets a goal does not forget what was remembered just now.
    changing: Mutex<()>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Changes that are made together.
pub struct StoreBatch<'a> {
    store: &'a Store,
    batch: fjall::OwnedWriteBatch,
}

impl std::fmt::Debug for StoreBatch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreBatch")
    }
}

/// Whether the files are at fault, and neither the system nor another process.
fn is_damaged(error: &fjall::Error) -> bool {
    let is_file_at_fault = |error: &std::io::Error| {
        matches!(
            error.kind(),
            ErrorKind::AlreadyExists
                | ErrorKind::NotFound
                | ErrorKind::UnexpectedEof
                | ErrorKind::InvalidData
                | ErrorKind::NotADirectory
                | ErrorKind::IsADirectory
        )
    };
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
            is_file_at_fault(error)
        }
        fjall::Error::Locked | fjall::Error::Poisoned => false,
        _ => true,
    }
}

fn database(what: &'static str) -> impl Fn(fjall::Error) -> StoreError {
    move |source| StoreError::Database { what, source }
}

impl Store {
    /// Opens the cache in `folder`, or makes it. One that cannot be read, as after a kill while it was being made, is
    /// thrown away: all that it held stands in the log.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        match Self::try_open(folder) {
            Err(StoreError::Database { what, source }) if is_damaged(&source) => {
                warn!(folder = %folder.display(), %source, "{what}: the agent cache is rebuilt from the log");
                std::fs::remove_dir_all(folder)
                    .map_err(|error| StoreError::Database { what: "throw away", source: error.into() })?;
                Self::try_open(folder)
            }
            outcome => outcome,
        }
    }

    fn try_open(folder: &Path) -> Result<Self, StoreError> {
        let database_opened = Database::builder(folder).worker_threads(1).open().map_err(database("open"))?;
        let keyspace = |name| {
            database_opened.keyspace(name, KeyspaceCreateOptions::default).map_err(database("open keyspace"))
        };
        let (agents, goals, stages) = (keyspace("agents")?, keyspace("goals")?, keyspace("stages")?);
        let (loaded, meta) = (keyspace("loaded")?, keyspace("meta")?);
        let format = meta.get("format").map_err(database("read format"))?;
        let was_fresh = format.as_deref() != Some(&FORMAT.to_be_bytes());
        if was_fresh {
            for keyspace in [&agents, &goals, &stages, &loaded, &meta] {
                keyspace.clear().map_err(database("clear"))?;
            }
        }
        let packer = Compressor::new(ZSTD_LEVEL).map_err(StoreError::Pack)?;
        let (folder, packer) = (folder.to_owned(), Mutex::new(packer));
        let is_empty = AtomicBool::new(was_fresh);
        Ok(Self {
            folder,
            database: database_opened,
            agents,
            goals,
            stages,
            loaded,
            meta,
            packer,
            is_empty,
            changing: Mutex::default(),
        })
    }

    /// Whether it holds nothing of what the log says yet.
    pub fn is_empty(&self) -> bool {
        self.is_empty.load(Ordering::Relaxed)
    }

    /// Throws away all that it holds.
    pub fn clear(&self) -> Result<(), StoreError> {
        for keyspace in [&self.agents, &self.goals, &self.stages, &self.loaded, &self.meta] {
            keyspace.clear().map_err(database("clear"))?;
        }
        self.is_empty.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Notes that it was brought up to date: from now on it is ahead of the snapshots in the log.
    pub fn note_filled(&self) {
        self.is_empty.store(false, Ordering::Relaxed);
    }

    /// The agent's state as it was last put, if it was.
    pub fn agent(&self, agent: &AgentId) -> Result<Option<AgentState>, StoreError> {
        let Some(packed) = self.agents.get(agent.as_str()).map_err(database("read agent"))? else {
            return Ok(None);
        };
        let damaged = |reason: String| StoreError::Damaged {
            key: agent.to_string(),
            reason,
            folder: self.folder.clone(),
        };
        let (version, packed) =
            packed.split_first_chunk::<4>().ok_or_else(|| damaged("is too short".to_owned()))?;
        let version = u32::from_be_bytes(*version);
        if version != STATE_VERSION {
            return Err(damaged(format!("has version {version}, this program reads {STATE_VERSION}")));
        }
        let json = zstd::bulk::decompress(packed, STATE_BYTES_MAX).map_err(|e| damaged(e.to_string()))?;
        serde_json::from_slice(&json).map(Some).map_err(|error| damaged(error.to_string()))
    }

    /// The agents that a partition is told of when it starts: those that had load or took no work when they were last put.
    pub fn loaded_agents(&self) -> Result<Vec<AgentId>, StoreError> {
        let mut agents = Vec::new();
        for entry in self.loaded.iter() {
            let key = entry.key().map_err(database("list loaded agents"))?;
            let name = String::from_utf8_lossy(&key);
            agents.push(AgentId::new(&name).map_err(|reason| StoreError::Damaged {
                key: name.into_owned(),
                reason: reason.to_string(),
                folder: self.folder.clone(),
            })?);
        }
        Ok(agents)
    }

    /// A stage's state as it was last put, if it was.
    pub fn stage(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.stages.get(name).map_err(database("read stage"))?.map(|bytes| bytes.to_vec()))
    }

    /// What is known of a goal's id.
    pub fn goal(
        &self,
        tenant: &TenantId,
        agent: Option<&AgentId>,
        goal: &GoalId,
    ) -> Result<Option<KnownGoal>, StoreError> {
        let found = self.goals.get(goal_key(tenant, agent, goal)).map_err(database("read goal"))?;
        Ok(found.and_then(|bytes| KnownGoal::from_bytes(&bytes)))
    }

    /// Forgets the goals that were accepted before `start`, where the log begins by now: a cache that is made anew
    /// knows nothing of them either. Returns how many there were.
    pub fn forget_goals_before(&self, start: Lsn) -> Result<usize, StoreError> {
        let is_old =
            |bytes: &[u8]| KnownGoal::from_bytes(bytes).is_none_or(|known| known.accepted_at < start);
        let mut forgotten = 0;
        let mut old = Vec::with_capacity(FORGOTTEN_AT_ONCE);
        for entry in self.goals.iter() {
            let (key, known) = entry.into_inner().map_err(database("list goals"))?;
            if is_old(&known) {
                old.push(key);
            }
            if old.len() == FORGOTTEN_AT_ONCE {
                forgotten += self.forget_goals(&mut old, is_old)?;
            }
        }
        Ok(forgotten + self.forget_goals(&mut old, is_old)?)
    }

    /// Those of `goals` that are old still: one may have been accepted anew since it was listed.
    fn forget_goals(
        &self,
        goals: &mut Vec<fjall::UserKey>,
        is_old: impl Fn(&[u8]) -> bool,
    ) -> Result<usize, StoreError> {
        let _one_at_a_time = self.changing();
        let mut batch = self.database.batch();
        let mut forgotten = 0;
        for goal in goals.drain(..) {
            if self.goals.get(&goal).map_err(database("read goal"))?.is_some_and(|known| is_old(&known)) {
                batch.remove(&self.goals, goal);
                forgotten += 1;
            }
        }
        batch.commit().map_err(database("forget goals"))?;
        Ok(forgotten)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From where the log has to be replayed to bring the cache up to date.
    pub fn replay_from(&self) -> Result<Lsn, StoreError> {
        let found = self.meta.get("replay_from").map_err(database("read replay position"))?;
        Ok(found
            .and_then(|bytes| bytes.first_chunk::<8>().map(|lsn| Lsn(u64::from_be_bytes(*lsn))))
            .unwrap_or_default())
    }

    /// Begins a set of changes that are made together.
    pub fn batch(&self) -> StoreBatch<'_> {
        StoreBatch { store: self, batch: self.database.batch() }
    }
}

impl StoreBatch<'_> {
    /// Says that the cache holds all that the log says, in the form of this program.
    pub fn put_format(&mut self) {
        self.batch.insert(&self.store.meta, "format", FORMAT.to_be_bytes());
    }

    /// Puts an agent's state, and whether a partition is told of it when it starts.
    pub fn put_agent(&mut self, agent: &AgentId, json: &[u8], is_told_of: bool) -> Result<(), StoreError> {
        let mut compressor = self.store.packer.lock().unwrap_or_else(PoisonError::into_inner);
        let packed = compressor.compress(json).map_err(StoreError::Pack)?;
        drop(compressor);
        let mut value = Vec::with_capacity(packed.len() + 4);
        value.extend_from_slice(&STATE_VERSION.to_be_bytes());
        value.extend_from_slice(&packed);
        self.batch.insert(&self.store.agents, agent.as_str(), value);
        if is_told_of {
            self.batch.insert(&self.store.loaded, agent.as_str(), []);
        } else {
            self.batch.remove(&self.store.loaded, agent.as_str());
        }
        Ok(())
    }

    /// Puts a stage's state.
    pub fn put_stage(&mut self, name: &str, json: &[u8]) {
        self.batch.insert(&self.store.stages, name, json);
    }

    /// Puts what is known of a goal's id.
    pub fn put_goal(&mut self, tenant: &TenantId, agent: Option<&AgentId>, goal: &GoalId, known: KnownGoal) {
        self.batch.insert(&self.store.goals, goal_key(tenant, agent, goal), known.to_bytes());
    }

    /// Puts from where the log has to be replayed.
    pub fn put_replay_from(&mut self, lsn: Lsn) {
        self.batch.insert(&self.store.meta, "replay_from", lsn.0.to_be_bytes());
    }

    /// Makes the changes.
    pub fn commit(self) -> Result<(), StoreError> {
        let _one_at_a_time = self.store.changing();
        self.batch.commit().map_err(database("write"))
    }
}

/// `tenant NUL agent NUL goal`: names hold no control characters, so the key is unambiguous.
fn goal_key(tenant: &TenantId, agent: Option<&AgentId>, goal: &GoalId) -> Vec<u8> {
    let agent = agent.map_or("", AgentId::as_str);
    [tenant.as_str(), agent, goal.as_str()].join("\0").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
        }
        found.sort();
        found
    }

    fn make(folder: &Path) {
        let store = Store::open(folder).unwrap();
        let mut batch = store.batch();
        batch.put_replay_from(Lsn(7));
        batch.commit().unwrap();
    }

    #[test]
    fn a_cache_of_which_any_file_is_missing_or_cut_opens_or_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
        make(&whole);
        let count = files(&whole).len();
        assert!(count > 0);
        for number in 0..count {
            for cut in [false, true] {
                make(&broken);
                let victim = &files(&broken)[number];
                if cut {
                    let file = fs::OpenOptions::new().write(true).open(victim).unwrap();
                    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
                } else {
                    fs::remove_file(victim).unwrap();
                }
                let store = Store::open(&broken)
                    .unwrap_or_else(|error| panic!("{} cut {cut}: {error}", victim.display()));
                assert!([Lsn(0), Lsn(7)].contains(&store.replay_from().unwrap()));
                drop(store);
                fs::remove_dir_all(&broken).unwrap();
            }
        }
    }

    #[test]
    fn goals_are_forgotten_that_were_accepted_before_the_log_begins() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let tenant = TenantId::default();
        let id = |number: u64| GoalId::new(format!("goal-{number}")).unwrap();
        let known = |number| KnownGoal { content: number, epoch: 0, accepted_at: Lsn(number) };
        let goals = 3 * FORGOTTEN_AT_ONCE as u64;
        let mut batch = store.batch();
        for number in 0..goals {
            batch.put_goal(&tenant, None, &id(number), known(number));
        }
        batch.commit().unwrap();
        let start = 2 * FORGOTTEN_AT_ONCE as u64 + 5;
        assert_eq!(store.forget_goals_before(Lsn(start)).unwrap() as u64, start);
        for number in 0..goals {
            let expected = (number >= start).then(|| known(number));
            assert_eq!(store.goal(&tenant, None, &id(number)).unwrap(), expected, "goal {number}");
        }
    }

    #[test]
    fn a_goal_that_is_accepted_anew_while_old_ones_are_listed_stays_known() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (tenant, id) = (TenantId::default(), GoalId::new("again").unwrap());
        let anew = KnownGoal { content: 1, epoch: 1, accepted_at: Lsn(70) };
        let mut batch = store.batch();
        batch.put_goal(&tenant, None, &id, anew);
        batch.commit().unwrap();
        // As it was listed, it was old.
        let mut listed = vec![goal_key(&tenant, None, &id).into()];
        let is_old =
            |bytes: &[u8]| KnownGoal::from_bytes(bytes).is_none_or(|known| known.accepted_at < Lsn(50));
        assert_eq!(store.forget_goals(&mut listed, is_old).unwrap(), 0);
        assert_eq!(store.goal(&tenant, None, &id).unwrap(), Some(anew));
    }

    #[test]
    fn a_cache_that_another_process_has_open_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path());
        let _open = Store::open(folder.path()).unwrap();
        assert!(Store::open(folder.path()).is_err());
        assert!(!files(folder.path()).is_empty());
    }
}
