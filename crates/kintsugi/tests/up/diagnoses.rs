//! A node that asks its model for diagnoses.

use std::time::Instant;

use crate::node::{Node, PATIENCE, example_goals, up_command};

#[test]
fn what_came_of_asking_the_model_is_counted_in_the_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = up_command(folder.path());
    // Every anomaly is asked about.
    command.env("KINTSUGI_HEALING__DIAGNOSE__BY_MODEL", "unsure");
    command.env("KINTSUGI_HEALING__DIAGNOSE__ASK_BELOW", "1.0").args(["--chaos", "0.5", "--seed", "3"]);
    let node = Node::spawn(&mut command, None);
    for goal in example_goals(16) {
        node.publish(&goal);
    }
    let begun = Instant::now();
    let counts = ["kintsugi_diagnosis_asks_total{outcome=\"", "kintsugi_diagnoses_total{diagnosed_by=\""];
    loop {
        let metrics = node.get("/metrics").text;
        if counts.iter().all(|count| metrics.contains(count)) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{metrics}");
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
}
