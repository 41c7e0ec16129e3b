use std::sync::Arc;

use candle_core::quantized::GgmlDType::{self, F32, Q4_1, Q4K, Q6K, Q8_0};

use super::naive::NaiveLlama;
use super::*;
use crate::backend::ContextId;
use crate::gguf::{GgufFile, ModelSource};
use crate::kernels::{BlockTable, KvLayout};
use crate::kv::{KvCache, Sharing};
use crate::support::{Random, RandomLlama};

struct Loaded {
    model: Model,
    kv: KvCache,
    naive: NaiveLlama,
    vocabulary: usize,
}

fn load(shape: &RandomLlama) -> Loaded {
    let bytes = shape.gguf();
    let naive = NaiveLlama::new(&bytes);
    let source = ModelSource::Bytes { name: "random.gguf".to_owned(), bytes: Arc::from(bytes) };
    let mut file = GgufFile::open(&source).unwrap();
    let config = ModelConfig::read(&file).unwrap();
    let model = Model::load(&mut file, config, 256).unwrap();
    let kv = KvCache::new(model.kv_layout(), 64, 64);
    Loaded { model, kv, naive, vocabulary: shape.text_tokens }
}

/// Shapes that differ in what can go wrong: grouped heads, own output head, both head sizes, rows that are no
/// multiple of a tile, every way that weights are held.
fn shapes() -> Vec<(RandomLlama, f32)> {
    let shape = |width, feed_forward, heads, kv_heads, head_size, tied, dtype: GgmlDType, embedding_dtype| {
        RandomLlama {
            width,
            feed_forward,
            heads,
            kv_heads,
            head_size,
            tied,
            dtype,
            embedding_dtype,
            ..RandomLlama::default()
        }
    };
    vec![
        (shape(64, 96, 4, 2, 16, true, F32, F32), 2e-3),
        (shape(80, 112, 3, 1, 48, false, F32, F32), 2e-3),
        (shape(96, 160, 3, 1, 32, false, Q8_0, Q8_0), 0.04),
        (shape(192, 320, 3, 3, 64, true, Q4_1, Q8_0), 0.04),
        (shape(256, 512, 4, 2, 64, true, Q4K, Q8_0), 0.04),
        (shape(256, 256, 8, 2, 32, false, Q6K, Q4K), 0.04),
    ]
}

/// Root mean square of the difference, relative to that of `exact`.
fn relative_error(got: &[f32], exact: &[f32]) -> f32 {
    assert_eq!(got.len(), exact.len());
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>();
    (squares(&mut got.iter().zip(exact).map(|(a, b)| a - b)) / squares(&mut exact.iter().copied())).sqrt()
}

fn tokens(random: &mut Random, count: usize, vocabulary: usize) -> Vec<u32> {
    (0..count).map(|_| u32::try_from(random.below(vocabulary)).unwrap()).collect()
}

fn step(loaded: &mut Loaded, table: &BlockTable, tokens: &[u32], start: usize) -> Vec<f32> {
    let chunk = Chunk { tokens, start, table, sample: true };
    loaded.model.forward(loaded.kv.pages_mut(), &[chunk]).unwrap().rows_mut().next().unwrap().to_vec()
}

#[test]
fn a_sequence_alone_agrees_with_the_forward_pass_written_out() {
    for (shape, tolerance) in shapes() {
        let mut loaded = load(&shape);
        let ids = tokens(&mut Random(3), 70, loaded.vocabulary);
        let table = loaded.kv.scratch(KvLayout::blocks_for(80)).unwrap();
        // A prompt in chunks of several sizes, then single tokens.
        let mut start = 0;
        for length in [1, 2, 40, 20, 1, 1] {
            let logits = step(&mut loaded, &table, &ids[start..start + length], start);
            start += length;
            let error = relative_error(&logits, &loaded.naive.logits(&ids[..start]));
            assert!(error < tolerance, "{shape:?} after {start}: {error}");
        }
    }
}

#[test]
fn sequences_in_one_ragged_step_do_not_notice_each_other() {
    for (shape, tolerance) in shapes() {
        let mut loaded = load(&shape);
        let mut random = Random(9);
        let lengths = [1usize, 5, 33, 64, 17, 3];
        let sequences: Vec<Vec<u32>> =
            lengths.iter().map(|length| tokens(&mut random, length + 2, loaded.vocabulary)).collect();
        let tables: Vec<BlockTable> = lengths
            .iter()
            .map(|length| loaded.kv.scratch(KvLayout::blocks_for(length + 2)).unwrap())
            .collect();
        let mut done = vec![0usize; lengths.len()];
        // First every second sequence, then the others beside single tokens of the first, then all.
        for round in 0..3 {
            let parts: Vec<usize> = (0..lengths.len())
                .map(|index| match (round, index % 2) {
                    (0, 0) | (1, 1) => lengths[index],
                    (0, _) => 0,
                    _ => 1,
                })
                .collect();
            let chunks: Vec<Chunk<'_>> = (0..lengths.len())
                .filter(|index| parts[*index] > 0)
                .map(|index| Chunk {
                    tokens: &sequences[index][done[index]..done[index] + parts[index]],
                    start: done[index],
                    table: &tables[index],
                    sample: true,
                })
                .collect();
            let mut logits = loaded.model.forward(loaded.kv.pages_mut(), &chunks).unwrap();
            let mut rows = logits.rows_mut();
            for index in (0..lengths.len()).filter(|index| parts[*index] > 0) {
                done[index] += parts[index];
                let exact = loaded.naive.logits(&sequences[index][..done[index]]);
                let error = relative_error(rows.next().unwrap(), &exact);
                assert!(error < tolerance, "{shape:?} round {round} sequence {index}: {error}");
            }
        }
    }
}

#[test]
fn the_company_in_a_batch_changes_no_clear_greedy_choice() {
    for (shape, _) in shapes() {
        let mut loaded = load(&shape);
        let mut random = Random(21);
        let prompts: Vec<Vec<u32>> =
            (0..7).map(|i| tokens(&mut random, 4 + 9 * i, loaded.vocabulary)).collect();
        let tables: Vec<BlockTable> = prompts
            .iter()
            .map(|prompt| loaded.kv.scratch(KvLayout::blocks_for(prompt.len())).unwrap())
            .collect();
        let alone: Vec<Vec<f32>> =
            prompts.iter().zip(&tables).map(|(prompt, table)| step(&mut loaded, table, prompt, 0)).collect();
        let chunks: Vec<Chunk<'_>> = prompts
            .iter()
            .zip(&tables)
            .map(|(tokens, table)| Chunk { tokens, start: 0, table, sample: true })
            .collect();
        let mut together = loaded.model.forward(loaded.kv.pages_mut(), &chunks).unwrap();
        for (alone, together) in alone.iter().zip(together.rows_mut()) {
            let mut order: Vec<usize> = (0..alone.len()).collect();
            order.sort_by(|a, b| alone[*b].total_cmp(&alone[*a]));
            let spread =
                alone.iter().map(|logit| logit * logit).sum::<f32>().sqrt() / (alone.len() as f32).sqrt();
            if alone[order[0]] - alone[order[1]] > 0.1 * spread {
                let best = (0..together.len()).max_by(|a, b| together[*a].total_cmp(&together[*b])).unwrap();
                assert_eq!(best, order[0], "{shape:?}");
            }
        }
    }
}

#[test]
fn shared_kept_and_swapped_prefixes_agree_with_the_forward_pass_written_out() {
    for (shape, tolerance) in shapes() {
        let mut loaded = load(&shape);
        let ids = tokens(&mut Random(31), 90, loaded.vocabulary);
        let sharing = Sharing { common_tokens: 40, salt: "tenant".into() };
        let context = Some(ContextId(1));
        // Each goes on from what the one before left: kept, found by another, swapped out and in, and a part of it.
        let ways =
            [(context, 70, 0), (context, 75, 70), (None, 80, 64), (context, 85, 75), (context, 50, 49)];
        for (index, (context, length, cached)) in ways.into_iter().enumerate() {
            if index == 3 {
                assert!(loaded.kv.swap_out(ContextId(1)));
                loaded.kv.reclaim_all();
            }
            let prompt = &ids[..length];
            let lent = loaded.kv.open(context, prompt, &sharing, 96).unwrap();
            assert_eq!(lent.cached, cached);
            let logits = step(&mut loaded, &lent.table, &prompt[cached..], cached);
            let error = relative_error(&logits, &loaded.naive.logits(prompt));
            assert!(error < tolerance, "{shape:?} way {index}: {error}");
            loaded.kv.close(lent.table, prompt.to_vec(), &sharing, context);
        }
    }
}

#[test]
fn a_step_that_makes_no_sense_is_an_error() {
    let mut loaded = load(&RandomLlama::default());
    let table = loaded.kv.scratch(1).unwrap();
    let vocabulary = u32::try_from(loaded.model.config.vocabulary).unwrap();
    for (tokens, start) in [(&[][..], 0), (&[vocabulary][..], 0), (&[1][..], 32), (&[1][..], 400)] {
        let chunk = Chunk { tokens, start, table: &table, sample: true };
        assert!(loaded.model.forward(loaded.kv.pages_mut(), &[chunk]).is_err());
    }
    assert!(loaded.model.forward(loaded.kv.pages_mut(), &[]).is_err());
}

#[test]
fn what_a_model_takes_is_known_before_it_is_loaded() {
    for (shape, _) in shapes() {
        let source = ModelSource::Bytes { name: "random.gguf".to_owned(), bytes: Arc::from(shape.gguf()) };
        let file = GgufFile::open(&source).unwrap();
        let config = ModelConfig::read(&file).unwrap();
        assert_eq!(Model::bytes_before_loading(&file, &config, 256), load(&shape).model.bytes());
    }
}
