//! Who is served, when, and who is refused.

use std::time::Duration;

use kintsugi_types::{ByteCount, ErrorTier, Score};

use super::*;
use crate::scripted::{self, ScriptedShape};
use crate::{EngineState, RefusalReason};

#[test]
fn a_thought_is_answered_and_counted() {
    scenario(async {
        let node = Node::start(&config(), Stage::new());
        assert_eq!(node.handle.ready().await.unwrap().name.as_str(), "scripted");
        let thought = node.think("a", "hello, who is there?").await.unwrap().unwrap();
        assert_eq!(thought.completion.text, stage::answer_to("hello, who is there?"));
        assert!(thought.queue_ms >= 0.0);
        let stats = node.handle.stats();
        assert_eq!((stats.completions, stats.usage.prompt, stats.epoch), (1, 5, 1));
        assert_eq!(stats.engine, EngineState::Up);
        assert_eq!(stats.memory.total(), ByteCount::mib(7));
        assert!(stats.kv_used_peak > ByteCount(0) && stats.memory_peak <= stats.memory_budget);
        node.assert_empty().await;
    });
}

#[test]
fn no_more_leases_are_out_than_there_are_slots() {
    scenario(async {
        let node = Node::start(&config(), Stage::new());
        node.stage.with(|script| script.hold = true);
        let thoughts: Vec<_> = (0..7).map(|n| node.think("a", &format!("{n}"))).collect();
        let stats = node.handle.wait_until(|stats| stats.queued == 5).await.unwrap();
        assert_eq!(stats.leases_out, 2);
        node.stage.with(|script| script.hold = false);
        for (n, thought) in thoughts.into_iter().enumerate() {
            assert_eq!(text(thought.await), answer(&format!("{n}")));
        }
        assert!(node.stage.with(|script| script.batch_max) <= 2);
        let stats = node.handle.stats();
        assert_eq!((stats.leases_out_peak, stats.queued_peak, stats.leases_granted), (2, 5, 7));
        node.assert_empty().await;
    });
}

#[test]
fn goals_in_progress_are_served_first_then_the_urgent_then_the_early() {
    scenario(async {
        let node = Node::start(&one_slot(), Stage::new());
        node.stage.with(|script| script.hold = true);
        let mut thoughts = vec![node.think("first", "running")];
        node.until_active(1).await;
        let calls =
            [("new", false, 0.5), ("urgent", false, 0.9), ("started", true, 0.1), ("new too", false, 0.5)];
        for (queued, (name, goal_started, urgency)) in calls.into_iter().enumerate() {
            let lease = LeaseRequest { goal_started, urgency: Score::new(urgency), ..ask(name) };
            thoughts.push(node.think_as(lease, name));
            node.until_queued(queued + 1).await;
        }
        node.stage.with(|script| script.hold = false);
        for thought in thoughts {
            assert!(thought.await.unwrap().is_ok());
        }
        let order = node.stage.with(|script| script.admitted.clone());
        assert_eq!(order, ["running", "started", "urgent", "new", "new too"]);
    });
}

#[test]
fn a_full_queue_refuses_and_says_when_to_come_back() {
    scenario(async {
        let node = Node::start(&SchedulerConfig { queue_max: 2, ..one_slot() }, Stage::new());
        let lease = node.handle.acquire(ask("holder")).await.unwrap();
        let waiting: Vec<_> = (0..2).map(|_| node.think("waiting", "later")).collect();
        node.until_queued(2).await;
        let refusal = node.handle.acquire(ask("late")).await.unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::QueueFull { queue_max: 2 });
        assert!(refusal.retry_after.unwrap() >= Duration::from_millis(50));
        let error = node.think("late", "too").await.unwrap().unwrap_err();
        assert!(matches!(error, ThinkError::Full { .. }) && error.is_retryable());
        assert_eq!(node.handle.stats().refused, 2);
        drop(lease);
        for thought in waiting {
            assert_eq!(text(thought.await), answer("later"));
        }
        node.assert_empty().await;
    });
}

#[test]
fn a_request_without_room_waits_until_another_has_finished() {
    // Prompt and answer take 11 tokens of 1 KiB; the pool has room for one of them.
    let shape = ScriptedShape { kv_pool: ByteCount(16 * 1024), steps: 3, ..stage::shape() };
    scenario(async {
        let node = Node::start(&config(), Stage::shaped(shape));
        node.stage.with(|script| script.hold = true);
        let one = node.think("a", "one");
        node.until_active(1).await;
        let other = node.think("b", "two");
        node.handle.wait_until(|stats| stats.leases_out == 2).await.unwrap();
        node.stage.with(|script| script.hold = false);
        assert_eq!(text(one.await), answer("one"));
        assert_eq!(text(other.await), answer("two"));
        let (batch_max, admit_calls) = node.stage.with(|script| (script.batch_max, script.admit_calls));
        assert_eq!(batch_max, 1);
        assert!(admit_calls <= 3, "asked again only when there was room: {admit_calls}");
        node.assert_empty().await;
    });
}

#[test]
fn what_can_never_run_is_refused_by_name() {
    let shape = ScriptedShape { kv_pool: ByteCount(16 * 1024), context_tokens: 50, ..stage::shape() };
    scenario(async {
        let node = Node::start(&config(), Stage::shaped(shape));
        let long = LeaseRequest { tokens_max: 60, ..ask("a") };
        let error = node.think_as(long, "long").await.unwrap().unwrap_err();
        assert_eq!(error, ThinkError::TooLong { prompt_tokens: 1, wanted_tokens: 60, context_tokens: 50 });
        assert_eq!(error.tier(), ErrorTier::Recoverable);
        let large = LeaseRequest { tokens_max: 40, ..ask("a") };
        let error = node.think_as(large, "large").await.unwrap().unwrap_err();
        assert!(
            matches!(error, ThinkError::NeverFits { free: ByteCount(16_384), .. }) && !error.is_retryable()
        );
        let mut lease = node.handle.acquire(ask("a")).await.unwrap();
        let error = lease.complete(completion("greedy", 11)).await.unwrap_err();
        assert!(matches!(error, ThinkError::Malformed { .. }));
        assert!(lease.complete(completion("modest", 10)).await.is_ok());
        drop(lease);
        node.assert_empty().await;
    });
}

#[test]
fn one_failing_request_leaves_the_others_alone() {
    scenario(async {
        let node = Node::start(&config(), Stage::new());
        node.stage.with(|script| script.poison_step = Some(("bad".to_owned(), stage::Mishap::Fail)));
        let (bad, good) = (node.think("a", "bad"), node.think("b", "good"));
        let error = text(bad.await).unwrap_err();
        assert_eq!(error, ThinkError::Failed { reason: "told to fail".to_owned() });
        assert_eq!(text(good.await), answer("good"));
        assert_eq!(node.handle.stats().faults, 0);
        node.assert_empty().await;
    });
}

#[test]
fn the_instant_backend_answers_from_a_function() {
    scenario(async {
        let factory = scripted::instant(|request| request.messages[0].content.to_uppercase());
        let node = Node::start_with(
            &SchedulerConfig { memory_budget: ByteCount::mib(512), ..config() },
            Stage::new(),
            factory,
        );
        assert_eq!(text(node.think("a", "quiet").await), Ok("QUIET".to_owned()));
    });
}

#[test]
fn nobody_starts_a_scheduler_that_serves_nobody() {
    scenario(async {
        let context = SchedulerContext {
            clock: Arc::new(kintsugi_types::SystemClock),
            ids: Box::new(kintsugi_types::SystemIds),
            invariants: Arc::default(),
            on_fault: Box::new(|_| {}),
        };
        let config = SchedulerConfig { slots: 0, ..config() };
        let error = GpuScheduler::start(&config, Stage::new().factory(), context).unwrap_err();
        assert!(matches!(error, crate::StartError::NoSlots));
    });
}
