//! Two schedulers beside each other, as a main and a smaller model have them.

use super::stage::{Mishap, shape};
use super::*;
use crate::EngineState;

#[test]
fn an_engine_that_breaks_for_good_takes_nothing_from_the_one_beside_it() {
    for mishap in [Mishap::Panic, Mishap::Fault, Mishap::Bomb] {
        scenario(async {
            let (large, small) = (Node::start(&config(), Stage::new()), Node::start(&config(), Stage::new()));
            large.stage.with(|script| script.hold = true);
            let asked = large.think("a", "one");
            large.until_active(1).await;
            small.stage.with(|script| {
                script.next_step = Some(mishap);
                script.fail_build = true;
            });
            let lost = small.think("a", "one");
            // Whatever comes of it, the same agent's request in the other engine goes on.
            small.handle.wait_until(|stats| stats.faults > 0).await;
            large.stage.with(|script| script.hold = false);
            assert_eq!(text(asked.await), answer("one"));
            assert_eq!(text(large.think("b", "two").await), answer("two"));
            let stats = large.handle.stats();
            assert_eq!((stats.faults, stats.epoch, stats.engine), (0, 1, EngineState::Up));
            large.assert_empty().await;
            assert!(text(lost.await).is_err());
        });
    }
}

#[test]
fn an_engine_that_holds_more_than_its_part_is_refused_though_both_together_would_have_room() {
    scenario(async {
        // A part of 8 MiB of which 7 are used, and one of 4 MiB that its engine would pass by 3.
        let large = Node::start(&config(), Stage::new());
        let part = SchedulerConfig { memory_budget: ByteCount::mib(4), ..config() };
        let small = Node::start(&part, Stage::new());
        let asked = small.think("a", "one");
        let refused = text(asked.await).unwrap_err().to_string();
        assert!(refused.contains("the engine holds 7.0 MiB of a budget of 4.0 MiB"), "{refused}");
        assert_eq!(text(large.think("a", "one").await), answer("one"));
        large.assert_empty().await;
    });
}

#[test]
fn what_is_told_of_both_is_the_sum_and_the_state_is_the_first_ones() {
    scenario(async {
        let (large, small) = (Node::start(&config(), Stage::new()), Node::start(&config(), Stage::new()));
        small.stage.with(|script| script.next_step = Some(Mishap::Fault));
        for (node, agents) in [(&large, ["a", "b"]), (&small, ["a", "c"])] {
            for agent in agents {
                assert_eq!(text(node.think(agent, "one").await), answer("one"));
            }
            node.assert_empty().await;
        }
        let (one, other) = (large.handle.stats(), small.handle.stats());
        let both = large.handle.stats_with(&small.handle);
        assert_eq!((both.engine, both.epoch, both.model), (one.engine, 1, one.model));
        assert_eq!(both.memory_budget, ByteCount::mib(16));
        let held = shape();
        assert_eq!(both.memory.total().0, 2 * (held.weights.0 + held.kv_pool.0 + held.scratch.0));
        assert_eq!(both.memory_peak.0, one.memory_peak.0 + other.memory_peak.0);
        assert_eq!((both.completions, both.leases_granted, both.lease_waits.count), (4, 4, 4));
        assert_eq!((both.faults, both.rebuilds), (1, 1));
        assert_eq!(both.usage.prompt, one.usage.prompt + other.usage.prompt);
        let longest = one.lease_waits.max_ms.max(other.lease_waits.max_ms);
        assert!((both.lease_waits.max_ms - longest).abs() < f64::EPSILON);
    });
}
