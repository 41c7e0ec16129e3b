//! The topics as an outside consumer finds them: Kafka's own client in Java, which reads what is committed, shares no code
//! with ours, and knows nothing of lanes and owners.

use std::collections::{BTreeMap, BTreeSet};

use kintsugi_broker::{JavaRecord, read_with_java};
use kintsugi_eventlog::kafka::Connection;
use kintsugi_events::Topic;
use kintsugi_tests::audit::Audit;
use serde_json::Value;

/// Counts goals, results, sequences and journals, and compares them with what our own code counted.
pub(crate) fn count(connection: &Connection, audit: &Audit) {
    let topics = [Topic::Goals, Topic::Results, Topic::Agents];
    let [goals, results, journal] = std::thread::scope(|scope| {
        let reads = topics.map(|topic| {
            let topic = connection.topic(topic);
            scope.spawn(move || read_with_java(&connection.brokers, &topic).unwrap())
        });
        reads.map(|read| read.join().unwrap())
    });
    let published: BTreeSet<String> = goals.iter().map(|goal| text(&data(goal), "id")).collect();
    let known: BTreeSet<String> = audit.goals.keys().map(ToString::to_string).collect();
    assert_eq!(published, known, "goals");
    let mut ended: BTreeMap<String, String> = BTreeMap::new();
    for result in &results {
        let result = data(result);
        let goal = text(&result, "goal");
        let before = ended.insert(goal.clone(), text(&result, "status"));
        assert_eq!(before, None, "goal {goal} has a second result");
    }
    let told = audit.goals.iter().flat_map(|(goal, results)| {
        results.iter().map(|result| (goal.to_string(), result.status.name().to_owned()))
    });
    assert_eq!(ended, told.collect(), "results");
    let journals = journals(&journal);
    let folded: BTreeMap<String, u64> =
        audit.agents.iter().map(|(agent, state)| (agent.to_string(), state.sequence)).collect();
    assert_eq!(journals, folded, "journals");
    let mut owners = BTreeSet::new();
    for topic in [&results, &journal] {
        owners.extend(owners_in(topic));
    }
    eprintln!(
        "counted from outside: {} goals, {} results, {} journals with {} events, {} owners of lanes",
        published.len(),
        results.len(),
        journals.len(),
        journals.values().sum::<u64>(),
        owners.len()
    );
}

/// How long the journal of each agent is. It lies in one partition, and its sequences count from 1 without a gap.
fn journals(records: &[JavaRecord]) -> BTreeMap<String, u64> {
    let mut journals: BTreeMap<String, (u32, u64)> = BTreeMap::new();
    for record in records {
        let sequence: u64 = record.header("ce_sequence").unwrap().parse().unwrap();
        let agent = record.header("ce_subject").unwrap();
        assert_eq!(record.key, agent);
        let (partition, last) = journals.entry(agent.to_owned()).or_insert((record.partition, 0));
        assert_eq!(record.partition, *partition, "{agent} moved to another partition");
        assert_eq!(sequence, *last + 1, "the journal of {agent} at offset {}", record.offset);
        *last = sequence;
    }
    journals.into_iter().map(|(agent, (_, length))| (agent, length)).collect()
}

/// The owners of lanes that wrote these records. None wrote after a later one had: it was refused.
fn owners_in(records: &[JavaRecord]) -> BTreeSet<(String, u64)> {
    let mut newest: BTreeMap<(u32, String), u64> = BTreeMap::new();
    let mut owners = BTreeSet::new();
    for record in records {
        let place = record.header("kintsugi_place").unwrap();
        let mut parts = place.split('/');
        let (lane, epoch) = (parts.next().unwrap().to_owned(), parts.next().unwrap().parse().unwrap());
        let newest = newest.entry((record.partition, lane.clone())).or_insert(epoch);
        assert!(epoch >= *newest, "an owner of the past wrote {place} after {newest}");
        *newest = epoch;
        owners.insert((lane, epoch));
    }
    owners
}

fn data(record: &JavaRecord) -> Value {
    serde_json::from_str(&record.value).unwrap()
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap().to_owned()
}
