//! Admission, memory and cancelling.

use super::*;

#[test]
fn memory_is_set_aside_at_admission_and_comes_back_at_the_end() {
    let mut engine = engine(&RandomLlama::default());
    let before = engine.memory();
    assert_eq!(before.kv_used, ByteCount(0));
    assert!(before.total() <= ByteCount::mib(256));
    let admitted = engine.admit(RequestId(1), request("hi", 1.0, 1, 60), &Origin::default()).unwrap();
    let block = engine.info().kv_bytes_per_token.bytes() * 32;
    assert_eq!(admitted.kv.total().bytes(), u64::from(admitted.prompt_tokens + 60).div_ceil(32) * block);
    assert_eq!(engine.memory().kv_used, admitted.kv.total());
    engine.step().unwrap();
    assert_eq!(engine.memory().kv_used, admitted.kv.total());
    run(&mut engine);
    assert_eq!(engine.memory(), before);
}

#[test]
fn a_cancelled_request_gives_its_memory_back_at_once_and_never_finishes() {
    let mut engine = engine(&RandomLlama::default());
    engine.admit(RequestId(1), request("hi", 1.0, 1, 60), &Origin::default()).unwrap();
    engine.admit(RequestId(2), request("ho", 1.0, 1, 20), &Origin::default()).unwrap();
    engine.step().unwrap();
    engine.cancel(RequestId(1));
    engine.cancel(RequestId(77));
    let finished = run(&mut engine);
    assert!(finished.contains_key(&RequestId(2)) && finished.len() == 1);
    assert_eq!(engine.memory().kv_used, ByteCount(0));
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_nothing_behind() {
    let mut engine = engine(&RandomLlama::default());
    let long = engine.admit(RequestId(1), request("hi", 1.0, 1, 10_000), &Origin::default()).unwrap_err();
    assert!(matches!(long, AdmitError::TooLong { wanted_tokens: 10_000, context_tokens: 256, .. }));
    assert!(!long.is_retryable());
    for (temperature, tokens_max) in [(f32::NAN, 5), (-1.0, 5), (1.0, 0)] {
        let error = engine
            .admit(RequestId(1), request("hi", temperature, 1, tokens_max), &Origin::default())
            .unwrap_err();
        assert!(matches!(error, AdmitError::Malformed { .. }));
    }
    let mut no_grammar = request("hi", 1.0, 1, 5);
    no_grammar.grammar = Grammar::JsonSchema("nonsense".into());
    assert!(matches!(
        engine.admit(RequestId(1), no_grammar, &Origin::default()),
        Err(AdmitError::Malformed { .. })
    ));
    assert_eq!((engine.active(), engine.memory().kv_used), (0, ByteCount(0)));

    for id in 0..8 {
        engine.admit(RequestId(id), request("hi", 1.0, id, 5), &Origin::default()).unwrap();
    }
    let full = engine.admit(RequestId(9), request("hi", 1.0, 1, 5), &Origin::default()).unwrap_err();
    assert!(matches!(full, AdmitError::NoSlot { slots: 8 }) && full.is_retryable());
}

#[test]
fn without_free_pages_a_request_waits_and_is_taken_later() {
    let shape = RandomLlama::default();
    let plenty = engine(&shape).memory();
    let one_sequence = ByteCount(plenty.weights.0 + plenty.scratch.0 + plenty.kv_pool.0 / 8);
    let mut engine =
        CandleEngine::load(&EngineConfig { memory_budget: one_sequence, ..config(shape.gguf()) }).unwrap();
    assert_eq!(engine.memory().kv_pool.0, plenty.kv_pool.0 / 8);
    engine.admit(RequestId(1), request("hi", 1.0, 1, 250), &Origin::default()).unwrap();
    let refused = engine.admit(RequestId(2), request("hi", 1.0, 1, 30), &Origin::default()).unwrap_err();
    assert!(matches!(refused, AdmitError::NoRoom { free: ByteCount(0), .. }) && refused.is_retryable());
    run(&mut engine);
    engine.admit(RequestId(2), request("hi", 1.0, 1, 30), &Origin::default()).unwrap();
}

#[test]
fn a_budget_that_is_too_small_is_refused_with_the_numbers() {
    let bytes = RandomLlama::default().gguf();
    for budget in [0, 1000, 200_000] {
        let error =
            CandleEngine::load(&EngineConfig { memory_budget: ByteCount(budget), ..config(bytes.clone()) })
                .unwrap_err();
        let InferenceError::BudgetTooSmall { weights, scratch, kv_least, needed, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(needed.0, weights.0 + scratch.0 + kv_least.0);
        let text = error.to_string();
        for number in [weights, scratch, kv_least] {
            assert!(text.contains(&number.to_string()), "{text}");
        }
        assert!(text.contains(&format!("raise the budget to {} or", needed.as_setting())), "{text}");
        let advised = needed.as_setting().parse().unwrap();
        let engine = CandleEngine::load(&EngineConfig { memory_budget: advised, ..config(bytes.clone()) });
        assert!(engine.is_ok(), "{advised} is not enough");
    }
    let plenty = CandleEngine::load(&config(bytes.clone())).unwrap().memory();
    let least = ByteCount(plenty.weights.0 + plenty.scratch.0 + plenty.kv_pool.0 / 8);
    assert!(CandleEngine::load(&EngineConfig { memory_budget: least, ..config(bytes.clone()) }).is_ok());
    let below = ByteCount(least.0 - 1);
    assert!(CandleEngine::load(&EngineConfig { memory_budget: below, ..config(bytes) }).is_err());
}

#[test]
fn settings_out_of_range_are_named() {
    let bytes = RandomLlama::default().gguf();
    for (name, changed) in [
        ("slots", EngineConfig { slots: 0, ..config(bytes.clone()) }),
        ("context_tokens", EngineConfig { context_tokens: 1, ..config(bytes.clone()) }),
        ("step_tokens_max", EngineConfig { step_tokens_max: 3, ..config(bytes) }),
    ] {
        let error = CandleEngine::load(&changed).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}
