//! A smaller model for tests, made of the shipped one.

use crate::common::example;

/// The shipped model with half of its layers, called `kintsugi-half`: smaller, and not much good.
pub(crate) fn half_a_model() -> Vec<u8> {
    let mut model = std::fs::read(example().join("../../models/kintsugi-nano.gguf")).unwrap();
    patch(&mut model, "llama.block_count", &4u32.to_le_bytes(), &2u32.to_le_bytes());
    patch(&mut model, "general.name", b"kintsugi-nano", b"kintsugi-half");
    let number = |place: usize| u64::from_le_bytes(model[place..][..8].try_into().unwrap());
    // What describes the tensors begins with that of the embedding: the name with its length before it, four bytes with
    // how many dimensions, eight bytes each, and twelve for the type and the place. The weights follow, on 32 bytes.
    let first = model.windows(17).position(|window| window == b"token_embd.weight").unwrap() - 8;
    let (mut kept, mut place) = (model[..first].to_vec(), first);
    let tensors = number(8);
    let mut tensors_kept = 0u64;
    for _ in 0..tensors {
        let name = &model[place + 8..][..number(place).try_into().unwrap()];
        let dimensions = usize::from(model[place + 8 + name.len()]);
        let next = place + 8 + name.len() + 4 + 8 * dimensions + 12;
        if !name.starts_with(b"blk.2.") && !name.starts_with(b"blk.3.") {
            kept.extend_from_slice(&model[place..next]);
            tensors_kept += 1;
        }
        place = next;
    }
    assert!(tensors_kept > 0 && tensors_kept < tensors, "{tensors_kept} of {tensors} tensors");
    kept[8..16].copy_from_slice(&tensors_kept.to_le_bytes());
    kept.resize(kept.len().next_multiple_of(32), 0);
    kept.extend_from_slice(&model[place.next_multiple_of(32)..]);
    kept
}

/// Puts `new` in the place of `old`, the value of `key` in a GGUF file.
pub(crate) fn patch(model: &mut [u8], key: &str, old: &[u8], new: &[u8]) {
    let find = |place: usize, wanted: &[u8]| {
        model[place..].windows(wanted.len()).position(|window| window == wanted).map(|found| place + found)
    };
    // Between them stands the type of the value, four bytes.
    let value = find(0, key.as_bytes()).and_then(|place| find(place + key.len() + 4, old)).unwrap();
    model[value..][..new.len()].copy_from_slice(new);
}
