use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use half::f16;

use super::*;
use crate::support::Random;

const HEAD: usize = 16;
const LAYOUT: KvLayout = KvLayout { layers: 1, kv_heads: 1, head_size: HEAD };

impl KvCache {
    /// Makes hashes collide and compares nothing, to prove that tests would notice.
    pub(crate) fn weaken(&mut self) {
        self.prefixes.is_weak = true;
    }

    /// Empties all pages that nobody holds, so that nothing can be found in them.
    pub(crate) fn reclaim_all(&mut self) {
        while let Some(block) = self.prefixes.reclaim() {
            self.blocks.put_back(block);
        }
    }

    /// Checks what must hold at any time, given the tables that are out.
    fn assert_sound<'a>(&'a self, out: impl Iterator<Item = &'a BlockTable>) {
        let mut holders: HashMap<u32, u32> = HashMap::new();
        let mut slots = 0;
        let kept = self.contexts.values().filter_map(|kept| match &kept.place {
            Place::Device(table) => Some(table),
            Place::Host(pages) => {
                slots += pages.iter().flatten().count();
                None
            }
        });
        for block in out.chain(kept).flat_map(BlockTable::blocks) {
            *holders.entry(*block).or_default() += 1;
        }
        for block in 0..u32::try_from(self.blocks.len()).unwrap() {
            let expected = holders.get(&block).copied().unwrap_or(0);
            assert_eq!(self.blocks.holders(block), expected, "holders of {block}");
            assert!(expected <= 1 || self.prefixes.contains(block), "{block} is private and held twice");
        }
        assert_eq!(self.bytes_of(holders.len()), self.used_bytes());
        assert_eq!(self.host.used(), slots);
    }
}

/// What stands for keys and values of the last of `tokens`: it depends on all of them, and half precision holds it.
fn content(tokens: &[u32]) -> f32 {
    let mut hasher = DefaultHasher::new();
    tokens.hash(&mut hasher);
    f32::from(u16::try_from(hasher.finish() % 2_000).unwrap())
}

fn compute(cache: &mut KvCache, table: &BlockTable, tokens: &[u32], from: usize) {
    for position in from..tokens.len() {
        let number = content(&tokens[..=position]);
        cache.pages.write(table, 0, position, &[number; HEAD], &[number + 1.0; HEAD]);
    }
}

/// Whether the pages hold what computing all of `tokens` would have given.
fn assert_holds(cache: &KvCache, table: &BlockTable, tokens: &[u32]) {
    for position in 0..tokens.len() {
        let (keys, values) = cache.pages.block(table, position / BLOCK_TOKENS, 0, 0);
        let number = content(&tokens[..=position]);
        let slot = position % BLOCK_TOKENS;
        assert_eq!(keys[slot], f16::from_f32(number), "key at {position}");
        assert_eq!(values[slot * HEAD + 3], f16::from_f32(number + 1.0), "value at {position}");
    }
}

fn tokens(first: u32, count: u32) -> Vec<u32> {
    (first..first + count).collect()
}

fn salted(common_tokens: usize, salt: &str) -> Sharing {
    Sharing { common_tokens, salt: salt.into() }
}

/// Opens, computes all of `tokens` and closes for `context`.
fn pass(cache: &mut KvCache, context: Option<u64>, tokens: &[u32], sharing: &Sharing) -> (usize, KvHeld) {
    let context = context.map(ContextId);
    let lent = cache.open(context, tokens, sharing, tokens.len() + 8).unwrap();
    compute(cache, &lent.table, tokens, lent.cached);
    assert_holds(cache, &lent.table, tokens);
    let held = cache.close(lent.table, tokens.to_vec(), sharing, context);
    cache.assert_sound(std::iter::empty());
    (lent.cached, held)
}

#[test]
fn a_conversation_goes_on_where_its_last_request_ended() {
    let mut cache = KvCache::new(LAYOUT, 8, 0);
    let page = LAYOUT.block_bytes();
    let sharing = salted(0, "t");
    let (cached, held) = pass(&mut cache, Some(1), &tokens(0, 70), &sharing);
    assert_eq!((cached, held.private.0, held.shared.0), (0, page, 2 * page));
    assert_eq!((cache.used_bytes().0, cache.shared_bytes().0), (3 * page, 2 * page));
    let (cached, _) = pass(&mut cache, Some(1), &tokens(0, 100), &sharing);
    assert_eq!(cached, 70);
    // Another way from the middle of a page on: the page is copied, for others may hold it.
    let turned = [tokens(0, 50), tokens(900, 30)].concat();
    assert_eq!(pass(&mut cache, Some(1), &turned, &sharing).0, 50);
    assert_eq!(pass(&mut cache, Some(2), &tokens(0, 100), &sharing).0, 96);
    // At least one token is left to compute.
    assert_eq!(pass(&mut cache, Some(1), &turned, &sharing).0, 79);
    assert_eq!(pass(&mut cache, None, &tokens(0, 64), &sharing).0, 63);
    cache.forget(ContextId(1));
    cache.forget(ContextId(2));
    assert_eq!((cache.used_bytes().0, cache.shared_bytes().0), (0, 0));
}

#[test]
fn equal_prefixes_are_stored_once_and_past_the_common_part_by_one_tenant_only() {
    let mut cache = KvCache::new(LAYOUT, 16, 0);
    let page = LAYOUT.block_bytes();
    // System prompt and tools end within the second page.
    let (one, other) = (salted(40, "one"), salted(40, "other"));
    pass(&mut cache, Some(1), &tokens(0, 96), &one);
    assert_eq!(pass(&mut cache, Some(2), &tokens(0, 97), &one).0, 96);
    assert_eq!(cache.used_bytes().0, (3 + 1) * page);
    assert_eq!(pass(&mut cache, Some(3), &tokens(0, 97), &other).0, 32);
    // Both compute the same at once: the second finds at its end that it is there.
    let first = cache.open(None, &tokens(500, 40), &one, 40).unwrap();
    let second = cache.open(Some(ContextId(4)), &tokens(500, 40), &one, 40).unwrap();
    assert_eq!((first.cached, second.cached), (0, 0));
    compute(&mut cache, &first.table, &tokens(500, 40), 0);
    compute(&mut cache, &second.table, &tokens(500, 40), 0);
    cache.close(first.table, tokens(500, 40), &one, None);
    let before = cache.used_bytes();
    let held = cache.close(second.table, tokens(500, 40), &one, Some(ContextId(4)));
    assert_eq!((held.shared.0, cache.used_bytes()), (page, before));
    cache.assert_sound(std::iter::empty());
}

#[test]
fn what_was_swapped_comes_back_byte_for_byte() {
    let mut cache = KvCache::new(LAYOUT, 6, 4);
    let sharing = salted(0, "t");
    pass(&mut cache, Some(1), &tokens(0, 70), &sharing);
    let before: Vec<Vec<u16>> = match &cache.contexts[&ContextId(1)].place {
        Place::Device(table) => table.blocks().iter().map(|block| bits(cache.pages.page(*block))).collect(),
        Place::Host(_) => panic!("not swapped yet"),
    };
    assert!(cache.swap_out(ContextId(1)) && !cache.swap_out(ContextId(1)));
    assert_eq!((cache.used_bytes().0, cache.host_bytes().0), (0, 3 * LAYOUT.block_bytes()));
    // A second one finds no room in host memory and stays.
    pass(&mut cache, Some(2), &tokens(300, 70), &sharing);
    assert!(!cache.swap_out(ContextId(2)));
    cache.forget(ContextId(2));
    // Every page of the device is overwritten meanwhile.
    let all = cache.scratch(6).unwrap();
    for block in all.blocks().to_vec() {
        cache.pages.page_mut(block).fill(f16::NAN);
    }
    cache.discard(all);
    let lent = cache.open(Some(ContextId(1)), &tokens(0, 100), &sharing, 100).unwrap();
    assert_eq!((lent.cached, cache.host_bytes().0), (70, 0));
    let after: Vec<Vec<u16>> =
        lent.table.blocks().iter().map(|block| bits(cache.pages.page(*block))).collect();
    assert_eq!(after[..3], before);
    cache.discard(lent.table);
    assert_eq!(cache.used_bytes().0, 0);
}

fn bits(page: &[f16]) -> Vec<u16> {
    page.iter().map(|number| number.to_bits()).collect()
}

#[test]
fn a_shortage_changes_nothing() {
    let mut cache = KvCache::new(LAYOUT, 4, 0);
    let page = LAYOUT.block_bytes();
    pass(&mut cache, Some(1), &tokens(0, 70), &salted(0, "t"));
    let shortage = cache.open(None, &tokens(0, 64), &salted(0, "t"), 160).unwrap_err();
    assert_eq!(shortage, Shortage { needed: ByteCount(4 * page), free: ByteCount(page) });
    cache.assert_sound(std::iter::empty());
    assert_eq!(pass(&mut cache, Some(1), &tokens(0, 80), &salted(0, "t")).0, 70);
}

/// A sequence at work in the random test.
struct Work {
    lent: Lent,
    tokens: Vec<u32>,
    computed: usize,
    room: usize,
    sharing: Sharing,
    context: Option<ContextId>,
}

#[test]
fn ten_thousand_random_operations_keep_every_page_right_and_leak_none() {
    for seed in 1..=3 {
        let mut random = Random(seed);
        let mut cache = KvCache::new(LAYOUT, 14, 10);
        let mut works: Vec<Work> = Vec::new();
        let mut histories: HashMap<ContextId, Vec<u32>> = HashMap::new();
        let (mut reused, mut swapped, mut short) = (0, 0, 0);
        for _ in 0..10_000 {
            let context = ContextId(random.below(6) as u64);
            match random.below(10) {
                0..=2 if works.len() < 4 => {
                    // System prompts of two kinds, then what the conversation said, then something new. Few different
                    // tokens, so that different conversations agree by chance as well.
                    let kind = u32::try_from(context.0 % 2).unwrap();
                    let mut prompt = tokens(kind * 100, 40);
                    let history = histories.entry(context).or_default();
                    if random.below(4) > 0 {
                        prompt.extend_from_slice(history);
                    }
                    prompt.extend((0..=random.below(20)).map(|_| u32::try_from(random.below(2)).unwrap()));
                    prompt.truncate(150);
                    let sharing = salted(40, ["a", "b"][random.below(2)]);
                    let room = prompt.len() + 1 + random.below(40);
                    let context = (random.below(5) > 0).then_some(context);
                    match cache.open(context, &prompt, &sharing, room) {
                        Err(_) => short += 1,
                        Ok(lent) => {
                            assert!(lent.cached < prompt.len() && lent.table.len() == room.div_ceil(32));
                            assert_holds(&cache, &lent.table, &prompt[..lent.cached]);
                            reused += usize::from(lent.cached > 0);
                            let computed = lent.cached;
                            works.push(Work { lent, tokens: prompt, computed, room, sharing, context });
                        }
                    }
                }
                // Extend: some of the prompt, or one token more.
                3..=5 if !works.is_empty() => {
                    let index = random.below(works.len());
                    let work = &mut works[index];
                    if work.computed == work.tokens.len() && work.tokens.len() < work.room {
                        work.tokens.push(u32::try_from(random.below(2)).unwrap());
                    }
                    let upto = work.tokens.len().min(work.computed + 1 + random.below(40));
                    compute(&mut cache, &work.lent.table, &work.tokens[..upto], work.computed);
                    work.computed = upto;
                }
                6 if !works.is_empty() => {
                    let work = works.swap_remove(random.below(works.len()));
                    assert_holds(&cache, &work.lent.table, &work.tokens[..work.computed]);
                    if let Some(context) = work.context {
                        histories.insert(context, work.tokens[40.min(work.tokens.len())..].to_vec());
                    }
                    let computed = work.tokens[..work.computed].to_vec();
                    cache.close(work.lent.table, computed, &work.sharing, work.context);
                }
                7 if !works.is_empty() => {
                    let work = works.swap_remove(random.below(works.len()));
                    cache.discard(work.lent.table);
                }
                8 => swapped += usize::from(cache.swap_out(context)),
                9 if random.below(4) == 0 => cache.forget(context),
                _ => {}
            }
            cache.assert_sound(works.iter().map(|work| &work.lent.table));
            assert!(cache.used_bytes() <= cache.bytes() && cache.shared_bytes() <= cache.used_bytes());
        }
        assert!(reused > 500 && swapped > 100 && short > 20, "{reused} {swapped} {short}");
        for work in works {
            cache.discard(work.lent.table);
        }
        (0..6).for_each(|context| cache.forget(ContextId(context)));
        assert_eq!((cache.used_bytes().0, cache.shared_bytes().0, cache.host_bytes().0), (0, 0, 0));
        assert_eq!(cache.scratch(14).map(|table| table.len()), Some(14));
    }
}
