//! Conversations between their requests: what stays, what leaves, and what comes back.

use super::*;
use crate::residency::Residence;
use crate::scripted::ScriptedShape;

/// Room for 100 tokens of 1 KiB, of which 85 lie below the mark.
fn shape() -> ScriptedShape {
    ScriptedShape {
        weights: ByteCount(0),
        scratch: ByteCount(0),
        kv_pool: ByteCount(100 * 1024),
        kv_host: ByteCount(60 * 1024),
        ..stage::shape()
    }
}

/// Says `tokens` tokens; the answer has as many and one more.
async fn say(node: &Node, name: &str, urgency: f64, tokens: usize) -> Thought {
    let tokens_max = u32::try_from(tokens).unwrap() + 1;
    let lease = LeaseRequest { urgency: Score::new(urgency), tokens_max, ..ask(name) };
    node.think_as(lease, &"text".repeat(tokens)).await.unwrap().unwrap()
}

#[test]
fn an_agents_next_request_finds_what_its_last_one_computed() {
    scenario(async {
        let node = Node::start(&config(), Stage::shaped(shape()));
        assert_eq!(say(&node, "a", 0.5, 5).await.completion.usage.cached, 0);
        assert_eq!(say(&node, "a", 0.5, 20).await.completion.usage.cached, 11);
        assert_eq!(say(&node, "b", 0.5, 10).await.completion.usage.cached, 0, "another agent");
        let other_tenant = LeaseRequest { tenant: TenantId::new("other").unwrap(), ..ask("a") };
        let thought = node.think_as(other_tenant, "text").await.unwrap().unwrap();
        assert_eq!(thought.completion.usage.cached, 0, "the same agent for another tenant");
        let stats = node.handle.stats();
        assert_eq!((stats.usage.cached, stats.waiting_on_device, stats.swaps.out), (11, 3, 0));
        node.handle.release_agent(&agent("a"));
        node.handle.release_agent(&agent("b"));
        node.handle.wait_until(|stats| stats.waiting_on_device == 0).await.unwrap();
        node.assert_empty().await;
    });
}

#[test]
fn above_the_mark_the_least_urgent_leave_for_host_memory_and_come_back_when_they_ask() {
    scenario(async {
        let node = Node::start(&config(), Stage::shaped(shape()));
        // 21 tokens each; with the 25 of a fourth there is too much.
        for (name, urgency) in [("urgent", 0.9), ("low", 0.1), ("middle", 0.5)] {
            say(&node, name, urgency, 10).await;
        }
        let stats = node.handle.stats();
        assert_eq!((stats.waiting_on_device, stats.swaps.out), (3, 0));
        say(&node, "fourth", 0.5, 12).await;
        let stats = node.handle.wait_until(|stats| stats.active == 0).await.unwrap();
        assert!(stats.memory.in_use().0 * 100 <= stats.memory.total().0 * 85, "{stats:?}");
        assert_eq!((stats.waiting_in_host_memory, stats.swaps.out), (1, 1));
        assert_eq!(stats.memory.kv_host, ByteCount(21 * 1024));
        let residence = |name| node.handle.residences().get(&agent(name)).copied();
        assert_eq!(residence("low"), Some(Residence::Swapped));
        assert_eq!(residence("urgent"), Some(Residence::Resident));
        assert_eq!(residence("nobody"), None);
        assert_eq!((stats.wakes.count, stats.lease_waits.count), (0, 4));
        assert_eq!(say(&node, "low", 0.1, 12).await.completion.usage.cached, 11, "back from host memory");
        let stats = node.handle.stats();
        assert_eq!(residence("low"), Some(Residence::Resident));
        assert_eq!((stats.swaps.back, stats.wakes.count, stats.swaps_in.count), (1, 1, 1));
        assert!(stats.swaps_in.max_ms <= stats.wakes.max_ms);
        assert_eq!(stats.kv_host_peak, ByteCount(21 * 1024));
        assert_eq!(node.invariants.total(), 0);
    });
}

#[test]
fn where_host_memory_is_full_the_least_missed_conversation_is_forgotten() {
    scenario(async {
        let shape = ScriptedShape { kv_pool: ByteCount(50 * 1024), kv_host: ByteCount(45 * 1024), ..shape() };
        let node = Node::start(&config(), Stage::shaped(shape));
        // Each takes 21 tokens: there is room for two on the device and for two in host memory.
        for (name, urgency) in [("a", 0.1), ("b", 0.5), ("c", 0.5), ("d", 0.5), ("e", 0.5)] {
            say(&node, name, urgency, 10).await;
        }
        let stats = node.handle.wait_until(|stats| stats.active == 0).await.unwrap();
        assert_eq!((stats.waiting_in_host_memory, stats.waiting_on_device), (2, 2));
        assert_eq!((stats.swaps.out, stats.swaps.forgotten), (3, 1));
        assert_eq!(say(&node, "a", 0.1, 10).await.completion.usage.cached, 0);
        assert!(say(&node, "c", 0.5, 10).await.completion.usage.cached > 0);
        assert_eq!(node.invariants.total(), 0);
    });
}

#[test]
fn a_new_engine_begins_every_conversation_anew() {
    scenario(async {
        let node = Node::start(&config(), Stage::shaped(shape()));
        say(&node, "a", 0.5, 10).await;
        node.stage.with(|script| script.next_step = Some(stage::Mishap::Panic));
        assert_eq!(say(&node, "a", 0.5, 20).await.completion.usage.cached, 0);
        assert_eq!(say(&node, "a", 0.5, 20).await.completion.usage.cached, 19);
        node.handle.release_agent(&agent("a"));
        node.handle.wait_until(|stats| stats.waiting_on_device == 0).await.unwrap();
        node.assert_empty().await;
    });
}
