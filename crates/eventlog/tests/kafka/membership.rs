//! The group of nodes: who has which partitions, and what is told of it.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use kintsugi_broker::Broker;
use kintsugi_eventlog::kafka::{Change, Membership, MembershipOptions};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::support::{LONG, Topics};

/// A member, and what it was told.
struct Node {
    membership: Membership,
    told: Receiver<Change>,
    owned: BTreeSet<u32>,
    /// Every change that was taken in, in order.
    changes: Vec<Change>,
}

impl Node {
    fn join(topics: &Topics, member: Option<&str>, session_timeout: Duration) -> Self {
        let (tell, told) = channel();
        let options = MembershipOptions {
            member: member.map(Into::into),
            session_timeout,
            ..MembershipOptions::new(topics.connection.clone())
        };
        let on_change = Box::new(move |change| drop(tell.send(change)));
        let membership = Membership::join(options, on_change).expect("joined");
        Self { membership, told, owned: BTreeSet::new(), changes: Vec::new() }
    }

    /// Takes in what was told so far.
    fn look(&mut self) {
        for change in self.told.try_iter() {
            match &change {
                Change::Gained(gained) => {
                    for one in gained {
                        assert!(self.owned.insert(*one), "gained twice: {change:?} {:?}", self.changes);
                    }
                }
                Change::Lost(lost) => {
                    for one in lost {
                        assert!(self.owned.remove(one), "lost and not had: {change:?} {:?}", self.changes);
                    }
                }
            }
            self.changes.push(change);
        }
    }

    fn lost(&self) -> BTreeSet<u32> {
        let lost = self.changes.iter().filter_map(|change| match change {
            Change::Lost(lost) => Some(lost.clone()),
            Change::Gained(_) => None,
        });
        lost.flatten().collect()
    }
}

/// Waits until each of `nodes` has as many partitions as `counts` says.
fn wait_for(nodes: &mut [&mut Node], counts: &[usize]) {
    let begun = Instant::now();
    loop {
        for node in nodes.iter_mut() {
            node.look();
        }
        let found: Vec<usize> = nodes.iter().map(|node| node.owned.len()).collect();
        if found == counts {
            return;
        }
        assert!(begun.elapsed() < LONG, "{found:?} for {counts:?}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

const SESSION: Duration = Duration::from_secs(10);

#[test]
fn members_share_the_partitions_and_only_those_that_move_are_lost() {
    // Far longer than members that wait for nothing need to share.
    let session = LONG;
    let topics = Topics::new(4);
    let mut first = Node::join(&topics, None, session);
    wait_for(&mut [&mut first], &[4]);
    let mut second = Node::join(&topics, None, session);
    wait_for(&mut [&mut first, &mut second], &[2, 2]);
    assert!(first.owned.is_disjoint(&second.owned));
    assert_eq!(first.lost(), second.owned, "what stays is not interrupted");
    // A third takes one partition of one of the two.
    let (before_first, before_second) = (first.owned.clone(), second.owned.clone());
    let mut third = Node::join(&topics, Some("third"), session);
    let begun = Instant::now();
    while third.owned.is_empty() || first.owned.len() + second.owned.len() + third.owned.len() < 4 {
        assert!(begun.elapsed() < LONG);
        std::thread::park_timeout(Duration::from_millis(10));
        for node in [&mut first, &mut second, &mut third] {
            node.look();
        }
    }
    let kept: BTreeSet<u32> = first.owned.union(&second.owned).copied().collect();
    let before: BTreeSet<u32> = before_first.union(&before_second).copied().collect();
    let moved: BTreeSet<u32> = before.difference(&kept).copied().collect();
    assert_eq!(moved, third.owned);
    assert!(first.owned.is_subset(&before_first) && second.owned.is_subset(&before_second));
    // One without a name that ends gives its partitions to the others at once.
    let given: BTreeSet<u32> = first.owned.clone();
    let begun = Instant::now();
    assert_eq!(first.membership.partitions(), given.iter().copied().collect::<Vec<_>>());
    first.membership.leave();
    wait_until_shared(&mut second, &mut third, 4);
    assert!(begun.elapsed() < session, "nobody waited for the session: {:?}", begun.elapsed());
    let all: BTreeSet<u32> = second.owned.union(&third.owned).copied().collect();
    assert_eq!(all, (0..4).collect());
    let told: Vec<Change> = first.told.try_iter().collect();
    assert_eq!(told, [Change::Lost(given.into_iter().collect())], "told before it left");
}

fn wait_until_shared(one: &mut Node, other: &mut Node, count: usize) {
    let begun = Instant::now();
    while one.owned.len() + other.owned.len() < count {
        assert!(begun.elapsed() < LONG);
        std::thread::park_timeout(Duration::from_millis(10));
        one.look();
        other.look();
    }
}

#[test]
fn one_that_leaves_before_it_has_anything_keeps_nobody_waiting() {
    let topics = Topics::new(4);
    // Longer than anything is waited for.
    let session = LONG * 2;
    let mut stays = Node::join(&topics, Some("stays"), session);
    wait_for(&mut [&mut stays], &[4]);
    for _ in 0..5 {
        let passes = Node::join(&topics, None, session);
        // Half of what there is is on its way to it.
        wait_for(&mut [&mut stays], &[2]);
        passes.membership.leave();
        wait_for(&mut [&mut stays], &[4]);
    }
}

#[test]
fn a_partition_is_not_handed_on_before_its_owner_has_let_go_of_it() {
    let topics = Topics::new(2);
    let (closing, is_closing) = channel();
    let (close, may_close) = channel::<()>();
    let options =
        MembershipOptions { session_timeout: SESSION, ..MembershipOptions::new(topics.connection.clone()) };
    let on_change = Box::new(move |change| {
        if matches!(change, Change::Lost(_)) {
            drop(closing.send(change));
            // Nobody is left to wait for where the test has ended.
            let _ = may_close.recv();
        }
    });
    let first = Membership::join(options, on_change).expect("joined");
    let begun = Instant::now();
    while first.partitions().len() < 2 {
        assert!(begun.elapsed() < LONG);
        std::thread::park_timeout(Duration::from_millis(10));
    }
    let mut second = Node::join(&topics, None, SESSION);
    let lost = is_closing.recv_timeout(LONG).expect("a partition has to move");
    assert!(matches!(&lost, Change::Lost(lost) if lost.len() == 1), "{lost:?}");
    // The first is still at it: long enough for the group to hand it on, were it free to.
    let waited = second.told.recv_timeout(Duration::from_secs(2));
    assert!(waited.is_err(), "{waited:?}");
    close.send(()).expect("it waits");
    wait_for(&mut [&mut second], &[1]);
    assert_eq!(lost, Change::Lost(second.owned.iter().copied().collect()));
    drop(close);
}

#[test]
fn a_member_with_a_name_has_its_partitions_again_after_a_restart() {
    let topics = Topics::new(4);
    let mut first = Node::join(&topics, Some("node-1"), LONG);
    let mut second = Node::join(&topics, Some("node-2"), LONG);
    wait_for(&mut [&mut first, &mut second], &[2, 2]);
    let had = first.owned.clone();
    first.membership.leave();
    let mut again = Node::join(&topics, Some("node-1"), LONG);
    wait_for(&mut [&mut again, &mut second], &[2, 2]);
    assert_eq!(again.owned, had);
    assert!(second.lost().is_empty() || second.lost() == had, "{:?}", second.changes);
}

#[test]
fn one_that_never_had_anything_is_missed_by_nobody() {
    let topics = Topics::new(1);
    let anybody: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", &*topics.connection.brokers).create().expect("a client");
    // Longer than anything is waited for.
    let session = LONG * 2;
    let mut stays = Node::join(&topics, None, session);
    wait_for(&mut [&mut stays], &[1]);
    let passes = Node::join(&topics, None, session);
    wait_until_members(&topics, &anybody, 2);
    passes.membership.leave();
    wait_until_members(&topics, &anybody, 1);
}

/// Waits until the group has settled with so many members.
fn wait_until_members(topics: &Topics, anybody: &BaseConsumer, count: usize) {
    let begun = Instant::now();
    while members(topics, anybody) != Some(count) {
        assert!(begun.elapsed() < LONG, "{:?} for {count}", members(topics, anybody));
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// How many members the group has, unless it is handing out just now.
fn members(topics: &Topics, anybody: &BaseConsumer) -> Option<usize> {
    let group = MembershipOptions::new(topics.connection.clone()).group;
    let list = anybody.fetch_group_list(Some(&*group), Duration::from_secs(5)).ok()?;
    let mut groups = list.groups().iter();
    let found = groups.find(|found| found.name() == &*group && found.state() == "Stable")?;
    Some(found.members().len())
}

#[test]
fn a_broker_that_is_away_longer_than_the_session_interrupts_no_lane() {
    let mut broker = Broker::start().unwrap_or_else(|error| panic!("{error}"));
    let session = Duration::from_secs(4);
    // Time itself is what is waited for.
    let longer = session * 3 / 2;
    let anybody: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", broker.bootstrap()).create().expect("a client");
    for member in [Some("node-1"), None] {
        let topics = Topics::at(&broker.bootstrap(), 4);
        let mut node = Node::join(&topics, member, session);
        wait_for(&mut [&mut node], &[4]);
        // Frozen it finds the session over when it goes on; killed it has forgotten how long it was away.
        broker.freeze().expect("frozen");
        std::thread::sleep(longer);
        broker.thaw().expect("thawed");
        broker.kill().expect("killed");
        std::thread::sleep(longer);
        broker.restart().expect("back");
        // A broker that has just begun takes everybody for a member that was one: only who still is when a session has
        // gone by is there again. One that is not would get its partitions back from the new member.
        let begun = Instant::now();
        while begun.elapsed() < longer || members(&topics, &anybody).is_none() {
            assert!(begun.elapsed() < LONG, "the group does not settle");
            std::thread::park_timeout(Duration::from_millis(100));
        }
        // It is a member again when it shares with a new one.
        let mut other = Node::join(&topics, None, SESSION);
        wait_for(&mut [&mut node, &mut other], &[2, 2]);
        assert_eq!(node.lost(), other.owned, "{:?}", node.changes);
        assert_eq!(node.changes.first(), Some(&Change::Gained(vec![0, 1, 2, 3])));
    }
}
