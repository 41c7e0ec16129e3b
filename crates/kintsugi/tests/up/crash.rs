//! A node that is killed: what it acknowledged ends, exactly once.

use std::collections::BTreeMap;
use std::path::Path;

use crate::node::{Node, example_goals};

/// How often the node is killed.
const KILLS: usize = 3;

/// Goals that are published between two kills.
const GOALS_EACH: usize = 8;

#[test]
fn acknowledged_goals_of_a_node_that_is_killed_end_exactly_once() {
    let folder = tempfile::tempdir().unwrap();
    let goals = example_goals((KILLS + 1) * GOALS_EACH);
    let mut acknowledged = Vec::new();
    for batch in goals.chunks(GOALS_EACH) {
        let node = Node::start(folder.path());
        acknowledged.extend(batch.iter().map(|goal| node.publish(goal)));
        if acknowledged.len() < goals.len() {
            // In the middle: one of them has ended, the others are under way.
            let mut results = node.events("topics=results&from=beginning", None);
            results.nth(acknowledged.len() - GOALS_EACH).unwrap();
            node.kill();
        } else {
            node.wait_for(&acknowledged);
            check(&node, &acknowledged, folder.path());
        }
    }
}

fn check(node: &Node, acknowledged: &[String], folder: &Path) {
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    // Every goal has ended and nothing else is published, so as many results as goals is all there is.
    for (_, event) in node.events("topics=results&from=beginning", None).take(acknowledged.len()) {
        *ends.entry(event["data"]["goal"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(ends.keys().collect::<Vec<_>>(), acknowledged.iter().collect::<Vec<_>>());
    assert!(ends.values().all(|count| *count == 1), "{ends:?}");
    let metrics = node.get("/metrics").text;
    assert!(metrics.contains("kintsugi_contradictions 0"), "{metrics}");
    assert!(metrics.contains("kintsugi_invariant_violations_total 0"), "{metrics}");
    let shop = rusqlite::Connection::open(folder.join("data/files/shop.db")).unwrap();
    let repeated: i64 = shop
        .query_row("SELECT count(*) - count(DISTINCT order_number) FROM refunds", [], |row| row.get(0))
        .unwrap();
    assert_eq!(repeated, 0);
}
