//! Every way in which a lease comes back, and that none of them loses a slot.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::sync::oneshot;

use super::*;
use crate::scripted::ScriptedShape;
use crate::{RefusalReason, ThinkError};

#[test]
fn a_dropped_lease_goes_to_who_waits() {
    scenario(async {
        let node = Node::start(&one_slot(), Stage::new());
        let lease = node.handle.acquire(ask("a")).await.unwrap();
        let next = node.think("b", "mine now");
        node.until_queued(1).await;
        drop(lease);
        assert_eq!(text(next.await), answer("mine now"));
        node.assert_empty().await;
    });
}

#[test]
fn a_lease_serves_more_than_one_completion() {
    scenario(async {
        let node = Node::start(&one_slot(), Stage::new());
        let mut lease = node.handle.acquire(ask("a")).await.unwrap();
        for n in 0..3 {
            let said = lease.complete(completion(&format!("{n}"), 10)).await.unwrap();
            assert_eq!(said.text, stage::answer_to(&format!("{n}")));
        }
        drop(lease);
        node.assert_empty().await;
    });
}

#[test]
fn a_caller_that_stops_waiting_leaves_the_queue() {
    scenario(async {
        let node = Node::start(&one_slot(), Stage::new());
        let lease = node.handle.acquire(ask("a")).await.unwrap();
        let waiting = node.think("b", "never mind");
        node.until_queued(1).await;
        waiting.abort();
        node.until_queued(0).await;
        drop(lease);
        node.assert_empty().await;
        assert_eq!(node.stage.with(|script| script.admit_calls), 0);
    });
}

#[test]
fn a_lease_granted_to_a_caller_that_just_went_away_comes_back() {
    scenario(async {
        let node = Node::start(&one_slot(), Stage::new());
        let lease = node.handle.acquire(ask("a")).await.unwrap();
        let mut waiting = Box::pin(node.handle.acquire(ask("b")));
        assert!(poll_once(waiting.as_mut()).await.is_none());
        node.until_queued(1).await;
        drop(lease);
        // The grant is on its way to a future that is never polled again.
        node.until_queued(0).await;
        drop(waiting);
        node.assert_empty().await;
        assert_eq!(node.handle.stats().leases_granted, 2);
    });
}

#[test]
fn a_caller_that_stops_waiting_for_its_answer_gives_everything_back() {
    scenario(async {
        let node = Node::start(&one_slot(), Stage::new());
        node.stage.with(|script| script.hold = true);
        let running = node.think("a", "unwanted");
        node.until_active(1).await;
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
        let next = node.think("b", "wanted");
        node.until_queued(1).await;
        node.stage.with(|script| script.hold = false);
        assert_eq!(text(next.await), answer("wanted"));
        node.assert_empty().await;
    });
}

#[test]
fn an_aborted_completion_keeps_the_lease_and_the_next_one_runs() {
    scenario(async {
        let node = Node::start(&one_slot(), Stage::new());
        node.stage.with(|script| script.hold = true);
        let mut lease = node.handle.acquire(ask("a")).await.unwrap();
        for n in 0..3 {
            let mut unwanted = Box::pin(lease.complete(completion(&format!("unwanted {n}"), 10)));
            assert!(poll_once(unwanted.as_mut()).await.is_none());
            node.until_active(1).await;
        }
        let mut wanted = Box::pin(lease.complete(completion("wanted", 10)));
        assert!(poll_once(wanted.as_mut()).await.is_none());
        node.stage.with(|script| script.hold = false);
        assert_eq!(wanted.await.unwrap().text, stage::answer_to("wanted"));
        drop(lease);
        node.assert_empty().await;
        let admitted = node.stage.with(|script| script.admitted.clone());
        assert_eq!(
            admitted,
            ["unwanted 0", "wanted"],
            "what was taken back in between never reached the engine"
        );
    });
}

#[test]
fn a_released_agent_loses_what_it_has_and_waits_for_and_nobody_else_does() {
    scenario(async {
        // More than one step, so that the work is cancelled and does not just end.
        let node = Node::start(&config(), Stage::shaped(ScriptedShape { steps: 2, ..stage::shape() }));
        node.stage.with(|script| script.hold = true);
        let running = node.think("dead", "running");
        node.until_active(1).await;
        let mut idle = node.handle.acquire(ask("dead")).await.unwrap();
        let queued = node.think("dead", "queued");
        node.until_queued(1).await;
        let other = node.think("alive", "other");
        node.until_queued(2).await;
        node.handle.release_agent(&agent("dead"));
        assert_eq!(text(queued.await), Err(ThinkError::Cancelled));
        // The answer does not wait for the engine, which is in the middle of a step.
        assert_eq!(text(running.await), Err(ThinkError::Cancelled));
        assert_eq!(idle.complete(completion("more", 10)).await, Err(ThinkError::Cancelled));
        assert!(!ThinkError::Cancelled.is_retryable());
        node.stage.with(|script| script.hold = false);
        assert_eq!(text(other.await), answer("other"));
        drop(idle);
        node.assert_empty().await;
        assert_eq!(node.stage.with(|script| script.cancelled), 1);
        // A new life of the agent is served as ever.
        assert_eq!(text(node.think("dead", "again").await), answer("again"));
    });
}

#[test]
fn a_running_lease_ends_at_its_deadline() {
    scenario_paused(async {
        let node = Node::start(&one_slot(), Stage::new());
        node.handle.ready().await.unwrap();
        node.stage.with(|script| script.hold = true);
        assert_eq!(text(node.think("slow", "endless").await), Err(ThinkError::LeaseExpired));
        let stats = node.handle.stats();
        // The slot stays taken until the engine has let go of the work.
        assert_eq!((stats.leases_out, stats.expired), (1, 1));
        node.stage.with(|script| script.hold = false);
        node.assert_empty().await;
    });
}

#[test]
fn an_idle_lease_ends_at_its_deadline_and_its_slot_is_given_on() {
    scenario_paused(async {
        let node = Node::start(&one_slot(), Stage::new());
        node.handle.ready().await.unwrap();
        let mut idle = node.handle.acquire(ask("idle")).await.unwrap();
        assert_eq!(idle.deadline(), node.clock.now() + TimeDelta::seconds(60));
        let next = node.handle.acquire(ask("next")).await.unwrap();
        assert_eq!(idle.ended(), Some(ThinkError::LeaseExpired));
        assert_eq!(idle.complete(completion("late", 1)).await, Err(ThinkError::LeaseExpired));
        drop(idle);
        assert_eq!(next.ended(), None, "dropping an ended lease gives nothing back twice");
        drop(next);
        node.assert_empty().await;
    });
}

#[test]
fn a_lease_does_not_age_while_the_engine_is_away() {
    scenario_paused(async {
        let stage = Stage::new();
        stage.with(|script| script.hold_build = true);
        let node = Node::start(&one_slot(), stage);
        let mut lease = node.handle.acquire(ask("patient")).await.unwrap();
        assert_eq!(lease.epoch(), 0);
        tokio::time::sleep(Duration::from_hours(1)).await;
        node.clock.advance(TimeDelta::hours(1));
        assert_eq!(lease.ended(), None);
        // From here in real time, or the clock would jump to the deadline while the engine thread works.
        tokio::time::resume();
        node.stage.with(|script| script.hold_build = false);
        let thought = lease.complete(completion("worth it", 10)).await.unwrap();
        assert_eq!(thought.text, stage::answer_to("worth it"));
        until_epoch(&lease, 1).await;
        assert_eq!(lease.deadline(), node.clock.now() + TimeDelta::seconds(60));
    });
}

#[test]
fn a_shutdown_answers_everyone_and_joins_the_engine_thread() {
    scenario(async {
        let node = Node::start(&one_slot(), Stage::new());
        node.stage.with(|script| script.hold = true);
        let running = node.think("a", "running");
        node.until_active(1).await;
        let queued = node.think("b", "queued");
        node.until_queued(1).await;
        let handle = node.handle.clone();
        let end = actix::spawn(async move { handle.shutdown().await });
        assert_eq!(text(queued.await), Err(ThinkError::Stopped));
        assert_eq!(text(running.await), Err(ThinkError::Stopped));
        node.stage.with(|script| script.hold = false);
        end.await.unwrap();
        assert_eq!(Arc::strong_count(&node.stage), 1, "the thread has dropped backend and factory");
        let stats = node.handle.stats();
        assert_eq!((stats.leases_out, stats.queued, stats.engine), (0, 0, crate::EngineState::Stopped));
        let refusal = node.handle.acquire(ask("late")).await.unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::Stopped);
        node.handle.shutdown().await;
        assert!(node.handle.wait_until(|stats| stats.active > 0).await.is_none());
    });
}

#[test]
fn a_scheduler_that_nobody_can_reach_ends_its_thread() {
    scenario(async {
        let stage = Stage::new();
        let (alive, is_gone) = oneshot::channel::<()>();
        let mut factory = stage.factory();
        let node = Node::start_with(
            &config(),
            stage,
            Box::new(move || {
                let _held_by_the_thread = &alive;
                factory()
            }),
        );
        assert!(node.think("a", "last words").await.unwrap().is_ok());
        drop(node);
        assert!(is_gone.await.is_err());
    });
}

/// Polls once.
async fn poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut future).poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
