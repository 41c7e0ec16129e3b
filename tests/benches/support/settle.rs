//! Waiting for the goals of a bench.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use kintsugi_runtime::Node;

/// Waits until all `goals` goals are settled. Fails where one was not completed, or a promise was broken.
pub(crate) fn settle(node: &Node, goals: u64) -> Result<()> {
    let status = loop {
        let status = node.status();
        if status.goals_settled() >= goals {
            break status;
        }
        if node.has_ended() {
            bail!("the node ended by itself");
        }
        std::thread::park_timeout(Duration::from_millis(5));
    };
    let (completed, broken) = (status.goals_completed, node.invariants().total());
    ensure!(completed == goals, "{completed} of {goals} goals were completed");
    ensure!(broken == 0, "{broken} invariants were broken");
    Ok(())
}
