//! Thousands of random operations, cut off at random places, on an engine that breaks at random: nothing passes a
//! bound, no answer goes to the wrong caller, and in the end nothing is left.

use std::collections::VecDeque;

use super::stage::Mishap;
use super::*;
use crate::SchedulerStats;
use crate::scripted::ScriptedShape;

const OPERATIONS: usize = 10_000;
const SLOTS: usize = 4;
const OUTSTANDING_MAX: usize = 48;
const AGENTS: u64 = 6;
const KV_HOST: ByteCount = ByteCount(40 * 1024);

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }
}

struct Outstanding {
    said: String,
    task: JoinHandle<Result<Thought, ThinkError>>,
}

/// An answer is the caller's own; an error is one that this test can provoke.
async fn check(outstanding: Outstanding) {
    match outstanding.task.await {
        Err(error) => assert!(error.is_cancelled(), "{error}"),
        Ok(Ok(thought)) => assert_eq!(thought.completion.text, stage::answer_to(&outstanding.said)),
        Ok(Err(error)) => assert!(
            matches!(
                error,
                ThinkError::Full { .. }
                    | ThinkError::Cancelled
                    | ThinkError::TooLong { .. }
                    | ThinkError::NeverFits { .. }
                    | ThinkError::EngineFault { .. }
            ),
            "{error}"
        ),
    }
}

fn random_ask(chance: &mut Chance, agent: &str) -> LeaseRequest {
    LeaseRequest {
        urgency: Score::new(chance.below(10) as f64 / 10.0),
        // 64 never fits the pool, 90 exceeds the context.
        tokens_max: [4, 8, 16, 24, 32, 64, 90][usize::try_from(chance.below(7)).unwrap()],
        goal_started: chance.below(2) == 0,
        ..ask(agent)
    }
}

fn run(seed: u64) {
    println!("seed {seed}");
    // Small beside the pool, so that conversations may wait on the device before they pass the mark.
    let shape = ScriptedShape {
        weights: ByteCount(4 * 1024),
        scratch: ByteCount(1024),
        kv_pool: ByteCount(48 * 1024),
        kv_host: KV_HOST,
        context_tokens: 80,
        steps: 2,
        ..stage::shape()
    };
    scenario(async {
        let mut config = SchedulerConfig { slots: SLOTS, queue_max: 24, ..config() };
        config.rebuild.attempts_max = u32::MAX;
        let mut node = Node::start(&config, Stage::shaped(shape));
        let is_warm = |stats: &SchedulerStats| stats.memory.weights > ByteCount(0);
        let warm = node.handle.wait_until(is_warm).await.unwrap().memory;
        let mut chance = Chance(seed);
        let mut outstanding: VecDeque<Outstanding> = VecDeque::new();
        let mut held = Vec::new();
        for operation in 0..OPERATIONS {
            let name = format!("agent-{}", chance.below(AGENTS));
            match chance.below(20) {
                0..=9 => {
                    let said = format!("{name} says {operation}");
                    let task = node.think_as(random_ask(&mut chance, &name), &said);
                    outstanding.push_back(Outstanding { said, task });
                }
                10..=12 => {
                    let place = chance.below(outstanding.len() as u64 + 1);
                    if let Some(outstanding) = outstanding.get(usize::try_from(place).unwrap()) {
                        outstanding.task.abort();
                    }
                }
                13 => node.handle.release_agent(&agent(&name)),
                // Fewer than the slots, so that holding never stops the others.
                14 if held.len() + 1 < SLOTS => {
                    if let Ok(lease) = node.handle.acquire(random_ask(&mut chance, &name)).await {
                        held.push(lease);
                    }
                }
                15 => drop(held.pop()),
                16 => {
                    if let Some(lease) = held.last_mut() {
                        let unwanted = lease.complete(completion("unwanted", 1));
                        let _ = tokio::time::timeout(Duration::ZERO, unwanted).await;
                    }
                }
                17 if chance.below(4) == 0 => {
                    let mishap = if chance.below(8) == 0 { Mishap::Panic } else { Mishap::Fault };
                    node.stage.with(|script| script.next_step = Some(mishap));
                }
                _ => tokio::task::yield_now().await,
            }
            while outstanding.len() > OUTSTANDING_MAX {
                check(outstanding.pop_front().unwrap()).await;
            }
            let stats = node.handle.stats();
            assert!(stats.leases_out <= SLOTS && stats.active <= SLOTS && stats.queued <= 24, "{stats:?}");
            assert!(stats.memory.total() <= stats.memory_budget);
            assert!(stats.memory.kv_used <= stats.memory.kv_pool && stats.memory.kv_host <= KV_HOST);
        }
        held.clear();
        for outstanding in outstanding {
            check(outstanding).await;
        }
        for agent_number in 0..AGENTS {
            node.handle.release_agent(&agent(&format!("agent-{agent_number}")));
        }
        let is_forgotten =
            |stats: &SchedulerStats| stats.waiting_on_device + stats.waiting_in_host_memory == 0;
        node.handle.wait_until(is_forgotten).await.unwrap();
        node.assert_empty().await;
        let stats = node.handle.stats();
        assert_eq!(stats.memory, warm, "the ledger is as before the first request");
        assert!(stats.completions > 100 && stats.faults > 10 && stats.refused > 0, "{stats:?}");
        let swaps = stats.swaps;
        assert!(swaps.out > 20 && swaps.back > 10 && swaps.forgotten > 0, "{swaps:?}");
        assert!(node.stage.with(|script| script.batch_max) <= SLOTS);
        assert_eq!(stats.faults, stats.rebuilds);
        node.handle.shutdown().await;
        assert_eq!(Arc::strong_count(&node.stage), 1);
        let mut faults = 0;
        while let Ok(report) = node.reports.try_recv() {
            faults += u64::from(matches!(report, EngineReport::Fault { .. }));
        }
        assert_eq!(faults, stats.faults, "each fault was reported");
    });
}

#[test]
fn ten_thousand_random_operations_leak_nothing_and_pass_no_bound() {
    run(1);
}

#[test]
fn ten_thousand_other_random_operations_do_not_either() {
    run(20_260_727);
}
