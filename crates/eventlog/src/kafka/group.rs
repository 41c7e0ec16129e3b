//! What the group of nodes has handed out, as anybody may ask.

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;

/// A group that has settled.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// The ids of its members, ascending.
    pub(super) members: Vec<String>,
    /// The partitions of the topic that they have.
    pub(super) partitions: BTreeSet<u32>,
}

/// What `group` has handed out of `topic`; nothing while it is about to hand out anew.
pub(super) fn settled<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    group: &str,
    topic: &str,
    patience: Duration,
) -> Result<Option<Settled>, KafkaError> {
    let list = consumer.fetch_group_list(Some(group), patience)?;
    let Some(found) = list.groups().iter().find(|found| found.name() == group && found.state() == "Stable")
    else {
        return Ok(None);
    };
    let mut settled = Settled::default();
    for member in found.members() {
        settled.members.push(member.id().to_owned());
        let partitions = member.assignment().and_then(|bytes| Assignment(bytes).partitions_of(topic));
        settled.partitions.extend(partitions.unwrap_or_default());
    }
    settled.members.sort();
    Ok(Some(settled))
}

/// A member's assignment as the consumer protocol writes it, version 0 and what later ones have in common with it: a
/// 16-bit version, then for each topic its name and its partitions. Numbers are big-endian; a text has a 16-bit length,
/// a list a 32-bit one.
struct Assignment<'a>(&'a [u8]);

impl<'a> Assignment<'a> {
    /// The partitions of `topic`; nothing where the bytes are something else.
    fn partitions_of(mut self, topic: &str) -> Option<Vec<u32>> {
        self.take::<2>()?;
        let mut partitions = Vec::new();
        for _ in 0..self.count()? {
            let length = u16::from_be_bytes(*self.take::<2>()?);
            let (name, rest) = self.0.split_at_checked(length.into())?;
            self.0 = rest;
            for _ in 0..self.count()? {
                let partition = u32::from_be_bytes(*self.take::<4>()?);
                if name == topic.as_bytes() {
                    partitions.push(partition);
                }
            }
        }
        Some(partitions)
    }

    fn take<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(taken)
    }

    /// The length of a list, which has no more members than bytes are left.
    fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(i32::from_be_bytes(*self.take::<4>()?)).ok()?;
        (count <= self.0.len()).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_read_and_anything_else_is_none() {
        let mut bytes = vec![0, 1, 0, 0, 0, 2];
        for (name, partitions) in [("a.goals", [3_u32, 7]), ("b", [1, 2])] {
            bytes.extend(u16::try_from(name.len()).unwrap_or(0).to_be_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(2_u32.to_be_bytes());
            bytes.extend(partitions.iter().flat_map(|partition| partition.to_be_bytes()));
        }
        let whole = bytes.len();
        // What belongs to whoever assigned.
        bytes.extend([0, 0, 0, 0]);
        assert_eq!(Assignment(&bytes).partitions_of("a.goals"), Some(vec![3, 7]));
        assert_eq!(Assignment(&bytes).partitions_of("a"), Some(vec![]));
        for cut in 0..whole {
            assert_eq!(Assignment(bytes.get(..cut).unwrap_or(&[])).partitions_of("a.goals"), None, "{cut}");
        }
        assert_eq!(Assignment(&[0, 0, 255, 255, 255, 255]).partitions_of("a"), None);
    }
}
