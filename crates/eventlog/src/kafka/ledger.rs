//! What a lane stores with every transaction: the positions of its consumers, and how far the lane has come.
//!
//! Kafka keeps one offset with a text for each group and partition, and a transaction commits them together with its
//! records. There is one group for all consumers of a lane: the text of `topic/partition` holds the position of each
//! by its name, the offset itself is the lowest of them, for tools that show how far a group is behind. The text of
//! the journal's first partition holds the *ledger* too. It is part of every transaction, and so tells afterwards
//! whether one of unknown outcome was committed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kintsugi_events::Topic;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata};
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use super::connection::{Connection, Told};
use super::options::{Options, Predecessor, STAGES};
use crate::error::LogError;
use crate::log::Position;
use crate::record::TopicPartition;

/// The most that a broker keeps beside an offset, unless it is told otherwise (`offset.metadata.max.bytes`).
const TEXT_BYTES_MAX: usize = 4096;

/// How far a lane has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ledger {
    /// The epoch of the owner who wrote it.
    pub(super) epoch: u64,
    /// Drawn by that owner: two that claim an epoch at once differ here.
    pub(super) owner: u64,
    /// The LSN that the next record gets, or a higher one.
    pub(super) lsn: u64,
    /// The number of the transaction that wrote it.
    pub(super) frame: u64,
}

/// What consumers have stored, by partition.
pub(super) type Positions = BTreeMap<TopicPartition, BTreeMap<Arc<str>, u64>>;

/// What Kafka stores beside an offset.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lane: Option<Ledger>,
    #[serde(default)]
    next: BTreeMap<String, u64>,
}

/// Names of a lane, derived once.
#[derive(Debug, Clone)]
pub(super) struct LaneName {
    /// Its lowest partition, as text, after the name of the stage that it belongs to, if it is one's.
    pub(super) name: Arc<str>,
    /// Its partition numbers, ascending.
    pub(super) partitions: Arc<[u32]>,
    /// Name its producers: who takes the lane over fences whoever had it.
    pub(super) transactional_ids: [String; 2],
}

/// Whether a lane can have this name. What outsiders write bears any; of these there is an end.
pub(super) fn is_lane_name(name: &str) -> bool {
    let (stage, number) = name.rsplit_once('-').map_or((None, name), |(stage, number)| (Some(stage), number));
    let is_canonical = number == "0" || !number.starts_with(['0', '+']);
    // No cluster has as many partitions for each topic.
    stage.is_none_or(|stage| STAGES.contains(&stage)) && is_canonical && number.parse::<u16>().is_ok()
}

impl LaneName {
    pub(super) fn new(options: &Options) -> Self {
        let mut partitions = options.partitions.clone();
        partitions.sort_unstable();
        partitions.dedup();
        let lowest = partitions.first().copied().unwrap_or(0);
        let name =
            options.stage.as_ref().map_or_else(|| lowest.to_string(), |stage| format!("{stage}-{lowest}"));
        let name: Arc<str> = name.into();
        // The group has the stage's name already.
        let transactional_ids = ["a", "b"].map(|turn| format!("{}-{lowest}-{turn}", options.group));
        Self { name, partitions: partitions.into(), transactional_ids }
    }

    /// Whether the lane holds `at`.
    pub(super) fn holds(&self, at: TopicPartition) -> bool {
        self.partitions.binary_search(&at.partition).is_ok()
    }

    /// Every partition of every topic that it holds.
    pub(super) fn places(&self) -> impl Iterator<Item = TopicPartition> {
        Topic::ALL
            .iter()
            .flat_map(|topic| self.partitions.iter().map(|partition| TopicPartition::new(*topic, *partition)))
    }

    /// Where the ledger lies.
    fn ledger_at(&self) -> TopicPartition {
        TopicPartition::new(Topic::Agents, self.partitions.first().copied().unwrap_or(0))
    }
}

/// Where the consumers of `predecessors` come further than `positions` say, that holds: what they have settled
/// elsewhere is not settled here once more. Waits at most for `patience` for each.
pub(super) fn go_on_from(
    predecessors: &[Predecessor],
    connection: &Connection,
    lane: &LaneName,
    positions: &mut Positions,
    patience: Duration,
) -> Result<(), LogError> {
    for Predecessor { consumer, topics, group } in predecessors {
        // A transaction of theirs that is open may be committed still.
        let group = GroupClient::with_isolation(connection, group, "read_committed")?;
        let places = lane.places().filter(|at| topics.contains(&at.topic));
        let (_, theirs) = group.load_places(places, patience)?;
        for (at, by_name) in theirs {
            if let Some(next) = by_name.get(consumer).copied() {
                let ours = positions.entry(at).or_default().entry(Arc::clone(consumer)).or_default();
                *ours = next.max(*ours);
            }
        }
    }
    Ok(())
}

/// Reads and stores what a lane keeps in its group.
pub(super) struct GroupClient {
    connection: Connection,
    consumer: BaseConsumer<Told>,
}

impl GroupClient {
    /// A client of the group that joins nothing.
    pub(super) fn new(connection: &Connection, group: &str) -> Result<Self, LogError> {
        // What an open transaction holds is not waited for: whoever asks has ended his own before.
        Self::with_isolation(connection, group, "read_uncommitted")
    }

    fn with_isolation(connection: &Connection, group: &str, isolation: &str) -> Result<Self, LogError> {
        let mut config = connection.config();
        config
            .set("group.id", group)
            .set("isolation.level", isolation)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false");
        Ok(Self { connection: connection.clone(), consumer: connection.create(&config)? })
    }

    /// The consumer itself, to ask for topics.
    pub(super) const fn consumer(&self) -> &BaseConsumer<Told> {
        &self.consumer
    }

    /// What names this member to the broker in a transaction. It is in no group, so the broker does not compare.
    pub(super) fn metadata(&self) -> Result<ConsumerGroupMetadata, LogError> {
        self.consumer.group_metadata().ok_or_else(|| LogError::Kafka {
            what: "name the group".to_owned(),
            brokers: Arc::clone(&self.connection.brokers),
            reason: "the client has none".to_owned(),
        })
    }

    /// What was stored for `lane`, waiting at most for `patience`.
    pub(super) fn load(
        &self,
        lane: &LaneName,
        patience: Duration,
    ) -> Result<(Option<Ledger>, Positions), LogError> {
        self.load_places(lane.places(), patience)
    }

    fn load_places(
        &self,
        places: impl Iterator<Item = TopicPartition>,
        patience: Duration,
    ) -> Result<(Option<Ledger>, Positions), LogError> {
        let mut asked = TopicPartitionList::new();
        for at in places {
            asked.add_partition(&self.connection.topic(at.topic), at.partition.cast_signed());
        }
        let what = "read positions";
        let failed = |error| self.connection.failed(what, &error, self.consumer.context());
        let stored = self.consumer.committed_offsets(asked, patience).map_err(failed)?;
        let (mut ledger, mut positions) = (None, Positions::new());
        for element in stored.elements() {
            element.error().map_err(failed)?;
            let Some(topic) = self.connection.topic_of(element.topic()) else { continue };
            let at = TopicPartition::new(topic, element.partition().cast_unsigned());
            if !matches!(element.offset(), Offset::Offset(_)) {
                continue;
            }
            let stored: Stored =
                serde_json::from_str(element.metadata()).map_err(|error| LogError::Kafka {
                    what: format!("read the positions stored for {at}"),
                    brokers: Arc::clone(&self.connection.brokers),
                    reason: format!("{error}: another program stored them for this group"),
                })?;
            ledger = ledger.or(stored.lane);
            if !stored.next.is_empty() {
                let by_name = stored.next.into_iter().map(|(name, next)| (name.into(), next));
                positions.insert(at, by_name.collect());
            }
        }
        Ok((ledger, positions))
    }
}

/// What a transaction of `lane` stores: `ledger`, and the positions of each of `changed`.
pub(super) fn offsets(
    connection: &Connection,
    lane: &LaneName,
    ledger: Ledger,
    positions: &Positions,
    changed: &[TopicPartition],
) -> Result<TopicPartitionList, LogError> {
    let ledger_at = lane.ledger_at();
    let others = changed.iter().copied().filter(|at| *at != ledger_at);
    let mut list = TopicPartitionList::with_capacity(changed.len() + 1);
    for at in std::iter::once(ledger_at).chain(others) {
        let by_name = positions.get(&at);
        let stored = Stored {
            lane: (at == ledger_at).then_some(ledger),
            next: by_name
                .map(|by_name| by_name.iter().map(|(name, next)| (name.to_string(), *next)).collect())
                .unwrap_or_default(),
        };
        let encode = |reason: String| LogError::Encode { event_type: format!("positions of {at}"), reason };
        let text = serde_json::to_string(&stored).map_err(|error| encode(error.to_string()))?;
        if text.len() > TEXT_BYTES_MAX {
            return Err(encode(format!("{} bytes are more than a broker keeps", text.len())));
        }
        let lowest = by_name.and_then(|by_name| by_name.values().min().copied()).unwrap_or(0);
        let lowest = i64::try_from(lowest).unwrap_or(i64::MAX);
        let mut element = list.add_partition(&connection.topic(at.topic), at.partition.cast_signed());
        element.set_offset(Offset::Offset(lowest)).map_err(|error| encode(error.to_string()))?;
        element.set_metadata(text);
    }
    Ok(list)
}

/// Takes `new` over. What comes later holds.
pub(super) fn store<'a>(
    positions: &mut Positions,
    new: impl Iterator<Item = &'a Position>,
) -> Vec<TopicPartition> {
    let mut changed = Vec::new();
    for position in new {
        let at = TopicPartition::new(position.topic, position.partition);
        positions.entry(at).or_default().insert(Arc::clone(&position.consumer), position.next_offset);
        if !changed.contains(&at) {
            changed.push(at);
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane() -> (Connection, LaneName) {
        let options = Options::new(Connection::new("nowhere:9092"), [4, 2]);
        (options.connection.clone(), LaneName::new(&options))
    }

    #[test]
    fn a_lane_is_known_by_its_name_and_what_outsiders_make_up_is_none() {
        for name in ["0", "7", "1023", "65535", "monitor-0", "diagnose-12", "recover-3"] {
            assert!(is_lane_name(name), "{name}");
        }
        let made_up = [
            "",
            "-",
            "-1",
            "+1",
            "01",
            "00",
            "65536",
            "1e3",
            "lane",
            "monitor",
            "monitor-",
            "monitor-01",
            "other-1",
            "monitor-monitor-1",
            "Monitor-1",
            " 1",
        ];
        for name in made_up {
            assert!(!is_lane_name(name), "{name:?}");
        }
    }

    #[test]
    fn a_transaction_stores_the_ledger_and_what_changed() {
        let (connection, lane) = lane();
        assert_eq!(&*lane.name, "2");
        assert_eq!(lane.transactional_ids, ["kintsugi-2-a", "kintsugi-2-b"]);
        let of_stage =
            LaneName::new(&Options::of_stage(connection.clone(), [2], "diagnose", &[Topic::Anomalies]));
        assert_eq!(&*of_stage.name, "diagnose-2");
        assert_eq!(
            of_stage.transactional_ids,
            ["kintsugi-stage-diagnose-2-a", "kintsugi-stage-diagnose-2-b"]
        );
        let mut positions = Positions::new();
        let position = |consumer: &str, topic, partition, next_offset| Position {
            consumer: consumer.into(),
            topic,
            partition,
            next_offset,
        };
        let new = [
            position("monitor", Topic::Metrics, 4, 9),
            position("other", Topic::Metrics, 4, 5),
            position("monitor", Topic::Metrics, 4, 7),
        ];
        let changed = store(&mut positions, new.iter());
        let ledger = Ledger { epoch: 3, owner: 8, lsn: 40, frame: 12 };
        let list = offsets(&connection, &lane, ledger, &positions, &changed).expect("offsets");
        let told: Vec<_> = list
            .elements()
            .iter()
            .map(|one| (one.topic().to_owned(), one.partition(), one.offset(), one.metadata().to_owned()))
            .collect();
        let expected = [
            (
                "kintsugi.agents",
                2,
                Offset::Offset(0),
                r#"{"lane":{"epoch":3,"owner":8,"lsn":40,"frame":12},"next":{}}"#,
            ),
            ("kintsugi.metrics", 4, Offset::Offset(5), r#"{"next":{"monitor":7,"other":5}}"#),
        ];
        let expected =
            expected.map(|(topic, at, offset, text)| (topic.to_owned(), at, offset, text.to_owned()));
        assert_eq!(told, expected);
    }

    #[test]
    fn positions_that_no_broker_keeps_are_refused() {
        let (connection, lane) = lane();
        let mut positions = Positions::new();
        let new: Vec<Position> = (0..200)
            .map(|number| Position {
                consumer: format!("a consumer with a long name, number {number}").into(),
                topic: Topic::Goals,
                partition: 2,
                next_offset: 0,
            })
            .collect();
        let changed = store(&mut positions, new.iter());
        let refused = offsets(&connection, &lane, Ledger::default(), &positions, &changed);
        assert!(matches!(refused, Err(LogError::Encode { .. })), "{refused:?}");
    }
}
