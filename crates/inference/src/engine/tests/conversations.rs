//! Requests that go on with earlier ones: less is computed, and nothing else changes.

use super::*;
use crate::support::Random;

const SYSTEM: &str = "order things and tell the truth in the action that the thing is";

fn origin(context: u64, tenant: &str) -> Origin {
    Origin { context: Some(ContextId(context)), salt: tenant.into() }
}

fn said(messages: &[(Role, &str)], seed: u64, tokens_max: u32) -> CompletionRequest {
    CompletionRequest {
        messages: messages.iter().map(|(role, text)| Message::new(*role, *text)).collect(),
        ..request("", 0.8, seed, tokens_max)
    }
}

fn answer(engine: &mut CandleEngine, request: &CompletionRequest, origin: &Origin) -> Completion {
    engine.admit(RequestId(1), request.clone(), origin).unwrap();
    run(engine).remove(&RequestId(1)).unwrap()
}

#[test]
fn a_next_step_computes_only_what_is_new_and_answers_the_same() {
    let shape = RandomLlama::default();
    let mut engine = engine(&shape);
    let mut messages = vec![(Role::System, SYSTEM.to_owned()), (Role::User, "do it and ".repeat(3))];
    let mut before = 0;
    for step in 0..5 {
        let messages_now: Vec<(Role, &str)> =
            messages.iter().map(|(role, text)| (*role, text.as_str())).collect();
        let request = said(&messages_now, step, 12);
        // Somewhere between, the conversation lies in host memory, and later it is gone.
        if step == 2 {
            assert!(engine.swap_out(ContextId(1)));
            engine.kv.reclaim_all();
            assert_eq!(engine.memory().kv_used, ByteCount(0));
            assert!(engine.memory().kv_host > ByteCount(0));
        }
        if step == 4 {
            engine.forget(ContextId(1));
            engine.kv.reclaim_all();
        }
        let kept = answer(&mut engine, &request, &origin(1, "t"));
        let alone = complete(&mut self::engine(&shape), request);
        assert_eq!((&kept.text, kept.finish), (&alone.text, alone.finish));
        assert_eq!(alone.usage.cached, 0);
        if step == 0 || step == 4 {
            assert_eq!(kept.usage.cached, 0);
        } else {
            assert!(kept.usage.cached >= before, "step {step}: {:?}", kept.usage);
        }
        before = kept.usage.prompt;
        messages.push((Role::Assistant, kept.text));
        messages.push((Role::Tool, format!("done {step}")));
    }
    engine.forget(ContextId(1));
    assert_eq!((engine.memory().kv_used, engine.memory().kv_host), (ByteCount(0), ByteCount(0)));
}

#[test]
fn agents_of_a_kind_store_their_system_prompt_once() {
    let mut engine = engine(&RandomLlama::default());
    let page = engine.info().kv_bytes_per_token.bytes() * 32;
    let system = engine.tokenizer().encode(SYSTEM).unwrap().len() + 1;
    let shared = u64::try_from(system / 32).unwrap();
    assert!(shared >= 1);
    for agent in 0..6 {
        let text = format!("agent {agent}");
        let request = said(&[(Role::System, SYSTEM), (Role::User, &text)], agent, 4);
        let tenant = if agent < 3 { "one" } else { "other" };
        let cached = answer(&mut engine, &request, &origin(agent, tenant)).usage.cached;
        assert_eq!(cached, if agent == 0 { 0 } else { shared * 32 });
    }
    assert_eq!(engine.memory().kv_shared.bytes(), shared * page);
    assert!(engine.memory().kv_used.bytes() <= (shared + 6 * 2) * page);
    let before = engine.memory();
    // What is refused changes nothing.
    let long = said(&[(Role::System, SYSTEM)], 1, 10_000);
    assert!(engine.admit(RequestId(1), long, &origin(1, "one")).is_err());
    assert_eq!(engine.memory(), before);
    (0..6).for_each(|agent| engine.forget(ContextId(agent)));
    assert_eq!(engine.memory().kv_used, ByteCount(0));
}

#[test]
fn sequences_that_share_their_prefix_answer_together_as_each_does_alone() {
    let shape = RandomLlama::default();
    let requests: Vec<CompletionRequest> = (0..6u64)
        .map(|agent| {
            let text = format!("{agent} and the order ").repeat(1 + usize::try_from(agent).unwrap());
            said(&[(Role::System, SYSTEM), (Role::User, &text)], agent, 20)
        })
        .collect();
    let alone: Vec<Completion> =
        requests.iter().map(|request| complete(&mut engine(&shape), request.clone())).collect();
    let mut engine = engine(&shape);
    answer(&mut engine, &said(&[(Role::System, SYSTEM)], 0, 1), &Origin::default());
    for (id, request) in (0..).zip(&requests) {
        let admitted = engine.admit(RequestId(id), request.clone(), &origin(id, "t")).unwrap();
        assert!(admitted.cached_tokens >= 32 && admitted.kv.shared > ByteCount(0));
        engine.step().unwrap();
    }
    let together = run(&mut engine);
    for (id, alone) in (0..).zip(&alone) {
        assert_eq!(together[&RequestId(id)].text, alone.text, "{id}");
    }
}

/// How many of `pairs` pairs of agents show something of each other: the second answers otherwise than it would if
/// the first had never been, or reuses more than it has in common with anybody before it. As many pairs at once as there
/// are slots, so that each agent may find what eight others left.
fn leaks(engine: &mut CandleEngine, pairs: u64) -> usize {
    let mut random = Random(7);
    let mut leaks = 0;
    for group in 0..pairs / SLOTS {
        let mut secrets = || -> Vec<CompletionRequest> {
            (0..SLOTS)
                .map(|seed| {
                    let letter = |_| char::from(b'a' + u8::try_from(random.below(26)).unwrap());
                    let secret: String = (0..66).map(letter).collect();
                    said(&[(Role::System, SYSTEM), (Role::User, &secret)], group * SLOTS + seed, 4)
                })
                .collect()
        };
        let (ones, others) = (secrets(), secrets());
        // Half of the pairs are of one tenant, which may share all that is equal.
        let tenant = if group % 2 == 0 { "one" } else { "other" };
        engine.kv.reclaim_all();
        let alone = together(engine, &others, |_| Origin::default());
        engine.kv.reclaim_all();
        together(engine, &ones, |index| origin(index, "one"));
        let beside = together(engine, &others, |index| origin(SLOTS + index, tenant));
        let prompts = |requests: &[CompletionRequest]| -> Vec<Vec<u32>> {
            let render = |request: &CompletionRequest| {
                engine.template.render(&request.messages, true, &engine.tokenizer).unwrap()
            };
            requests.iter().map(render).collect()
        };
        let before = prompts(&ones);
        for ((prompt, alone), beside) in prompts(&others).iter().zip(&alone).zip(&beside) {
            let common = |one: &Vec<u32>| one.iter().zip(prompt).take_while(|(one, own)| one == own).count();
            let common = before.iter().map(common).max().unwrap();
            leaks += usize::from(beside.text != alone.text || beside.usage.cached > common as u64);
        }
        (0..2 * SLOTS).for_each(|context| engine.forget(ContextId(context)));
    }
    assert_eq!(engine.memory().kv_used, ByteCount(0));
    leaks
}

/// How many requests the tests' engine takes at once.
const SLOTS: u64 = 8;

fn together(
    engine: &mut CandleEngine,
    requests: &[CompletionRequest],
    origin: impl Fn(u64) -> Origin,
) -> Vec<Completion> {
    for (index, request) in (0..).zip(requests) {
        engine.admit(RequestId(index), request.clone(), &origin(index)).unwrap();
    }
    let mut answers = run(engine);
    (0..).zip(requests).map(|(index, _)| answers.remove(&RequestId(index)).unwrap()).collect()
}

#[test]
fn no_token_of_an_agents_secret_reaches_another_agent() {
    // All prompts of a group in one step.
    let bytes = RandomLlama::default().gguf();
    let mut engine = CandleEngine::load(&EngineConfig { step_tokens_max: 1024, ..config(bytes) }).unwrap();
    assert_eq!(leaks(&mut engine, 1_000), 0);
    // The same check finds leaks where hashes have four bits and tokens are not compared.
    engine.kv.weaken();
    assert!(leaks(&mut engine, 96) > 10);
}
