//! An engine that breaks: what runs again, what does not, and when it is given up.

use kintsugi_types::Invariant;

use super::stage::Mishap;
use super::*;
use crate::scripted::ScriptedShape;
use crate::{EngineState, RefusalReason};

#[test]
fn after_a_panic_in_a_step_all_requests_run_again_on_a_new_engine() {
    for mishap in [Mishap::Panic, Mishap::Fault] {
        scenario(async {
            let mut node = Node::start(&config(), Stage::new());
            node.stage.with(|script| {
                script.hold = true;
                script.next_step = Some(mishap);
            });
            let (one, other) = (node.think("a", "one"), node.think("b", "two"));
            node.handle.wait_until(|stats| stats.leases_out == 2).await.unwrap();
            node.stage.with(|script| script.hold = false);
            assert_eq!(text(one.await), answer("one"));
            assert_eq!(text(other.await), answer("two"));
            assert!(matches!(node.report().await, EngineReport::Fault { requests: 1..=2, .. }));
            assert!(matches!(node.report().await, EngineReport::Rebuilt { attempt: 1, .. }));
            let stats = node.handle.stats();
            assert_eq!((stats.epoch, stats.faults, stats.rebuilds), (2, 1, 1));
            node.assert_empty().await;
        });
    }
}

#[test]
fn a_lease_is_granted_again_when_the_engine_was_rebuilt() {
    scenario(async {
        let node = Node::start(&config(), Stage::new());
        let mut lease = node.handle.acquire(ask("a")).await.unwrap();
        lease.complete(completion("before", 1)).await.unwrap();
        until_epoch(&lease, 1).await;
        node.stage.with(|script| script.next_step = Some(Mishap::Fault));
        assert_eq!(lease.complete(completion("after", 1)).await.unwrap().text, stage::answer_to("after"));
        until_epoch(&lease, 2).await;
        assert_eq!(lease.ended(), None);
    });
}

#[test]
fn a_request_that_panics_in_admit_fails_alone() {
    scenario(async {
        let node = Node::start(&config(), Stage::new());
        node.stage.with(|script| script.poison_admit = Some("poison".to_owned()));
        let (bad, good) = (node.think("a", "poison"), node.think("b", "good"));
        let error = text(bad.await).unwrap_err();
        assert!(
            matches!(&error, ThinkError::EngineFault { reason } if reason.contains("told to panic in admit"))
        );
        assert!(error.is_retryable());
        assert_eq!(text(good.await), answer("good"));
        assert_eq!(node.handle.stats().faults, 3);
        node.assert_empty().await;
    });
}

#[test]
fn a_request_that_breaks_every_engine_fails_and_its_neighbours_do_not() {
    scenario(async {
        let node = Node::start(&SchedulerConfig { slots: 4, ..config() }, Stage::new());
        node.stage.with(|script| {
            script.hold = true;
            script.poison_step = Some(("poison".to_owned(), Mishap::Fault));
        });
        let names = ["one", "poison", "two", "three"];
        let thoughts: Vec<_> = names.iter().map(|name| node.think(name, name)).collect();
        node.handle.wait_until(|stats| stats.leases_out == 4).await.unwrap();
        node.stage.with(|script| script.hold = false);
        for (name, thought) in names.iter().zip(thoughts) {
            if *name == "poison" {
                assert!(matches!(text(thought.await), Err(ThinkError::EngineFault { .. })));
            } else {
                assert_eq!(text(thought.await), answer(name));
            }
        }
        assert_eq!(node.handle.stats().faults, 3);
        node.assert_empty().await;
    });
}

#[test]
fn a_storm_of_faults_ends_at_the_intensity_limit() {
    scenario(async {
        let mut config = config();
        config.rebuild.attempts_max = 2;
        let mut node = Node::start(&config, Stage::new());
        let mut idle = node.handle.acquire(ask("idle")).await.unwrap();
        node.stage.with(|script| {
            script.hold = true;
            script.poison_step = Some(("storm".to_owned(), Mishap::Panic));
        });
        let running = node.think("a", "storm");
        node.until_active(1).await;
        let queued = node.think("b", "storm");
        node.until_queued(1).await;
        node.stage.with(|script| script.hold = false);
        assert!(matches!(text(running.await), Err(ThinkError::EngineFault { .. })));
        assert!(matches!(text(queued.await), Err(ThinkError::EngineFault { .. })));
        let refusal = node.handle.acquire(ask("late")).await.unwrap_err();
        assert!(matches!(refusal.reason, RefusalReason::EngineDown { .. }));
        assert_eq!(refusal.retry_after, Some(config.rebuild.window));
        assert_eq!(idle.complete(completion("x", 1)).await, Err(ThinkError::StaleLease { epoch: 3 }));
        let mut kinds = Vec::new();
        while kinds.last() != Some(&"down") {
            kinds.push(match node.report().await {
                EngineReport::Fault { .. } => "fault",
                EngineReport::Rebuilt { .. } => "rebuilt",
                EngineReport::Down { .. } => "down",
            });
        }
        assert_eq!(kinds, ["fault", "rebuilt", "fault", "rebuilt", "fault", "down"]);
        assert_eq!(node.stage.with(|script| script.builds), 3);
        drop(idle);
        node.assert_empty().await;
        // It ends at once all the same, though the next attempt is an hour away.
        node.handle.shutdown().await;
    });
}

#[test]
fn an_engine_that_is_down_is_tried_on_and_comes_back() {
    scenario(async {
        let mut config = config();
        config.rebuild.attempts_max = 2;
        config.rebuild.window = Duration::from_millis(50);
        let mut node = Node::start(&config, Stage::new());
        let mut old = node.handle.acquire(ask("old")).await.unwrap();
        old.complete(completion("fine", 1)).await.unwrap();
        node.stage.with(|script| {
            script.fail_build = true;
            script.next_step = Some(Mishap::Fault);
        });
        assert!(matches!(old.complete(completion("x", 1)).await, Err(ThinkError::EngineFault { .. })));
        node.handle.wait_until(|stats| matches!(stats.engine, EngineState::Down { .. })).await.unwrap();
        let builds = node.stage.with(|script| script.builds);
        node.stage.with(|script| script.fail_build = false);
        node.handle.wait_until(|stats| stats.engine == EngineState::Up).await.unwrap();
        assert!(node.stage.with(|script| script.builds) > builds);
        while !matches!(node.report().await, EngineReport::Rebuilt { .. }) {}
        assert_eq!(old.complete(completion("x", 1)).await, Err(ThinkError::StaleLease { epoch: 1 }));
        drop(old);
        assert_eq!(text(node.think("new", "back").await), answer("back"));
        node.assert_empty().await;
    });
}

#[test]
fn a_model_that_cannot_be_built_is_reported() {
    scenario(async {
        let mut config = config();
        config.rebuild.attempts_max = 1;
        let stage = Stage::new();
        stage.with(|script| script.fail_build = true);
        let mut node = Node::start(&config, stage);
        let error = node.handle.ready().await.unwrap_err();
        assert_eq!(error, ThinkError::EngineFault { reason: "no such model".to_owned() });
        let reason = || "no such model".to_owned();
        assert_eq!(node.report().await, EngineReport::Fault { reason: reason(), requests: 0 });
        assert_eq!(node.report().await, EngineReport::Fault { reason: reason(), requests: 0 });
        assert_eq!(node.report().await, EngineReport::Down { reason: reason() });
    });
}

#[test]
fn a_factory_that_panics_is_a_failed_build() {
    scenario(async {
        let stage = Stage::new();
        let mut factory = stage.factory();
        let mut is_first = true;
        let node = Node::start_with(
            &config(),
            stage,
            Box::new(move || {
                assert!(!std::mem::take(&mut is_first), "told to panic while building");
                factory()
            }),
        );
        assert_eq!(text(node.think("a", "patience").await), answer("patience"));
        assert_eq!(node.handle.stats().faults, 1);
    });
}

#[test]
fn a_backend_over_the_budget_is_not_used() {
    scenario(async {
        let mut config = config();
        config.rebuild.attempts_max = 0;
        let shape = ScriptedShape { weights: ByteCount::mib(4), ..stage::shape() };
        let node = Node::start(&config, Stage::shaped(shape));
        let error = node.handle.ready().await.unwrap_err();
        assert!(error.to_string().contains("9.0 MiB of a budget of 8.0 MiB"), "{error}");
        assert_eq!(node.invariants.violations(Invariant::BudgetNotExceeded), 1);
        assert!(matches!(text(node.think("a", "x").await), Err(ThinkError::EngineFault { .. })));
    });
}

#[test]
fn a_request_that_the_engine_loses_is_noticed_and_runs_again() {
    scenario(async {
        let node = Node::start(&config(), Stage::new());
        node.stage.with(|script| script.next_step = Some(Mishap::Lose));
        assert_eq!(text(node.think("a", "lost").await), answer("lost"));
        assert_eq!(node.invariants.violations(Invariant::BudgetNotExceeded), 0);
        assert!(node.invariants.violations(Invariant::LedgerMatchesEngine) > 0);
        assert_eq!(node.handle.stats().faults, 1);
    });
}

#[test]
fn a_listener_that_panics_does_not_take_the_engine_along() {
    scenario(async {
        let stage = Stage::new();
        stage.with(|script| script.next_step = Some(Mishap::Fault));
        let context = SchedulerContext {
            clock: Arc::new(kintsugi_types::SystemClock),
            ids: Box::new(kintsugi_types::SystemIds),
            invariants: Arc::default(),
            on_fault: Box::new(|_| panic!("told to panic in the listener")),
        };
        let handle = GpuScheduler::start(&config(), stage.factory(), context).unwrap();
        assert!(handle.think(ask("a"), completion("x", 1)).await.is_ok());
        handle.shutdown().await;
    });
}

#[test]
fn nobody_waits_for_an_engine_thread_that_died() {
    scenario(async {
        let node = Node::start(&one_slot(), Stage::new());
        node.stage.with(|script| {
            script.hold = true;
            script.next_step = Some(Mishap::Bomb);
        });
        let running = node.think("a", "running");
        node.until_active(1).await;
        let queued = node.think("b", "queued");
        node.until_queued(1).await;
        node.stage.with(|script| script.hold = false);
        assert!(matches!(text(running.await), Err(ThinkError::EngineFault { .. })));
        assert!(matches!(text(queued.await), Err(ThinkError::EngineFault { .. })));
        assert!(matches!(text(node.think("c", "late").await), Err(ThinkError::EngineFault { .. })));
        let stats = node.handle.wait_until(|stats| stats.leases_out == 0).await.unwrap();
        assert_eq!(stats.engine, EngineState::Stopped);
        node.handle.shutdown().await;
    });
}
