//! Which partition a key belongs to: the same on every log, and the same as the Java client of Kafka chooses.
//!
//! So an outside producer that sends a goal with its agent as key, with the Java client or any that is told to
//! choose as it does, puts it where the agent lives.

/// The 32-bit hash of `bytes` that Kafka's Java client takes for keys: Austin Appleby's `MurmurHash2` with the seed
/// `0x9747b28c` (`org.apache.kafka.common.utils.Utils.murmur2`).
pub fn murmur2(bytes: &[u8]) -> u32 {
    const MULTIPLIER: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    // The Java client takes the low 32 bits of a length too; no key is that long.
    #[expect(clippy::cast_possible_truncation, reason = "the hash is defined over the low 32 bits")]
    let length = bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    let mut hash = words.iter().fold(SEED ^ length, |hash, word| {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        word ^= word >> 24;
        hash.wrapping_mul(MULTIPLIER) ^ word.wrapping_mul(MULTIPLIER)
    });
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0, |last, byte| (last << 8) | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

/// The partition of `key` where there are `partitions` of them; 0 where there is none.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    // The sign is dropped before the remainder is taken, as there.
    (murmur2(key) & 0x7fff_ffff).checked_rem(partitions).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `UtilsTest.testMurmur2` of Apache Kafka.
    #[test]
    fn hashes_are_those_that_kafka_publishes() {
        let published: [(&[u8], i32); 7] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
            // The empty key, worked out by the definition.
            (b"", 275_646_681),
        ];
        for (key, hash) in published {
            assert_eq!(murmur2(key).cast_signed(), hash, "{}", String::from_utf8_lossy(key));
        }
    }

    #[test]
    fn a_partition_is_the_positive_remainder() {
        // -973932308 with its sign dropped is 1173551340.
        assert_eq!(partition_of(b"21", 16), 1_173_551_340 % 16);
        assert_eq!(partition_of(b"21", 1), 0);
        assert_eq!(partition_of(b"21", 0), 0);
        for number in 0..1_000 {
            assert!(partition_of(format!("support-{number}").as_bytes(), 16) < 16);
        }
    }
}
