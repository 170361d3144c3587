//! What an election may and may not do.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

type Claims = BTreeMap<NodeId, NodeClaims>;

const ALPHA: PeerName = PeerName::from_u64(0x0200_0000_0a01);
const BETA: PeerName = PeerName::from_u64(0x0200_0000_0b02);

const fn node(name: PeerName, uid: u64) -> NodeId {
    NodeId { name, uid }
}

#[test]
fn two_nodes_elect_both_of_them() {
    // The exchange of vectors ipam-paxos-1 to -3, and ipam-paxos-consensus.
    let mut alpha = Paxos::new(node(ALPHA, 111), 2);
    let mut beta = Paxos::new(node(BETA, 222), 2);
    alpha.propose();
    let ballot = ProposalId {
        round: 1,
        proposer: node(ALPHA, 111),
    };
    let promised = NodeClaims {
        promise: ballot,
        ..NodeClaims::default()
    };
    assert_eq!(
        alpha.gossip_state(),
        &Claims::from([(alpha.node(), promised.clone())])
    );

    assert!(beta.update(alpha.gossip_state()) && beta.think());
    let both = Claims::from([
        (alpha.node(), promised.clone()),
        (beta.node(), promised.clone()),
    ]);
    assert_eq!(beta.gossip_state(), &both);

    assert!(alpha.update(beta.gossip_state()) && alpha.think());
    let accepted_value = AcceptedValue {
        value: vec![ALPHA, BETA],
        origin: ballot,
    };
    let accepted = NodeClaims {
        promise: ballot,
        accepted: ballot,
        accepted_value,
    };
    let told = Claims::from([(alpha.node(), accepted), (beta.node(), promised)]);
    assert_eq!(alpha.gossip_state(), &told);
    assert_eq!(alpha.consensus(), None);

    assert!(beta.update(alpha.gossip_state()) && beta.think());
    assert_eq!(beta.consensus(), Some(vec![ALPHA, BETA]));
    assert!(alpha.update(beta.gossip_state()) && !alpha.think());
    assert_eq!(alpha.consensus(), Some(vec![ALPHA, BETA]));
    assert!(
        !beta.update(alpha.gossip_state()),
        "there is nothing left to learn"
    );
}

#[test]
fn a_single_vote_can_be_a_quorum() {
    let mut alone = Paxos::new(node(ALPHA, 1), 1);
    assert_eq!(alone.consensus(), None);
    alone.propose();
    assert_eq!(alone.consensus(), Some(vec![ALPHA]));
    alone.propose();
    assert_eq!(
        alone.consensus(),
        Some(vec![ALPHA]),
        "a later ballot keeps the value"
    );
}

#[test]
fn a_node_that_restarts_with_its_claims_keeps_its_promise() {
    let mut alpha = Paxos::new(node(ALPHA, 1), 2);
    let mut beta = Paxos::new(node(BETA, 1), 2);
    alpha.propose();
    alpha.propose();
    beta.update(alpha.gossip_state());
    beta.think();
    let saved = Claims::from([(beta.node(), beta.ours().cloned().expect("it promised"))]);
    let mut beta = Paxos::restore(beta.node(), 2, saved);
    beta.propose();
    let rounds = beta
        .gossip_state()
        .values()
        .map(|claims| claims.promise.round);
    assert_eq!(
        rounds.max(),
        Some(3),
        "its own ballot is above the one it promised"
    );
}

#[test]
fn a_round_beyond_reason_is_not_believed() {
    let mut alpha = Paxos::new(node(ALPHA, 1), 2);
    let promise = ProposalId {
        round: u64::MAX,
        proposer: node(BETA, 1),
    };
    let claims = NodeClaims {
        promise,
        ..NodeClaims::default()
    };
    assert!(!alpha.update(&Claims::from([(node(BETA, 1), claims.clone())])));
    let promise = ProposalId {
        round: ROUND_MAX,
        ..promise
    };
    assert!(alpha.update(&Claims::from([(
        node(BETA, 1),
        NodeClaims { promise, ..claims }
    )])));
    alpha.propose();
    assert!(alpha.think() && !alpha.think());
}

#[test]
fn a_crowd_of_invented_nodes_is_not_remembered() {
    let mut alpha = Paxos::new(node(ALPHA, 1), 2);
    let crowd = (0..2 * NODES_MAX as u64).map(|uid| (node(BETA, uid), NodeClaims::default()));
    assert!(alpha.update(&crowd.collect()));
    assert_eq!(alpha.known_nodes(), NODES_MAX);
    alpha.propose();
    assert_eq!(alpha.known_nodes(), NODES_MAX + 1, "but we are");
}

/// An election in which a step says who proposes and who hears whom.
struct Cluster {
    nodes: Vec<Paxos>,
    /// Everything each node ever said; may be heard again any time later.
    said: Vec<Vec<Claims>>,
    /// What nodes concluded.
    chosen: BTreeSet<Vec<PeerName>>,
}

impl Cluster {
    fn new(count: usize) -> Self {
        let name = |n: usize| PeerName::from_u64(n as u64 + 1);
        let nodes = (0..count).map(|n| Paxos::new(node(name(n), 7), count / 2 + 1));
        Self {
            nodes: nodes.collect(),
            said: vec![Vec::new(); count],
            chosen: BTreeSet::new(),
        }
    }

    fn propose(&mut self, n: usize) {
        self.nodes[n].propose();
        self.say(n);
    }

    /// `to` hears the last thing `from` said, or one said `age` times before.
    fn hear(&mut self, to: usize, from: usize, age: usize) {
        let Some(claims) = self.said[from].iter().rev().nth(age) else {
            return;
        };
        if self.nodes[to].update(claims) {
            self.nodes[to].think();
            self.say(to);
        }
    }

    fn say(&mut self, n: usize) {
        self.said[n].push(self.nodes[n].gossip_state().clone());
        self.chosen.extend(self.nodes[n].consensus());
        assert!(self.chosen.len() <= 1, "two values: {:?}", self.chosen);
    }

    /// Only its own claims are durable.
    fn restart(&mut self, n: usize) {
        let node = &self.nodes[n];
        let saved = node.ours().map(|claims| (node.node(), claims.clone()));
        self.nodes[n] = Paxos::restore(node.node(), node.quorum(), saved.into_iter().collect());
        self.say(n);
    }

    /// Everybody hears everybody, and if that does not end the election somebody proposes.
    fn settle(&mut self) {
        for proposer in 0..self.nodes.len() {
            self.propose(proposer);
            for _ in 0..5 {
                for (to, from) in pairs(self.nodes.len()) {
                    self.hear(to, from, 0);
                }
            }
        }
        assert!(
            self.nodes.iter().all(|node| node.consensus().is_some()),
            "it does not end"
        );
    }
}

fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |to| (0..count).map(move |from| (to, from)))
}

#[derive(Debug, Clone)]
enum Step {
    Propose(usize),
    Hear { to: usize, from: usize, age: usize },
    Restart(usize),
}

fn step(count: usize) -> impl Strategy<Value = Step> {
    let age = prop_oneof![4 => Just(0_usize), 1 => 0..4_usize];
    prop_oneof![
        2 => (0..count).prop_map(Step::Propose),
        12 => (0..count, 0..count, age).prop_map(|(to, from, age)| Step::Hear { to, from, age }),
        1 => (0..count).prop_map(Step::Restart),
    ]
}

fn scene() -> impl Strategy<Value = (usize, Vec<Step>)> {
    (1..=5_usize).prop_flat_map(|count| (Just(count), vec(step(count), 0..120)))
}

proptest! {
    #[test]
    fn no_two_nodes_conclude_differently((count, steps) in scene()) {
        let mut cluster = Cluster::new(count);
        for step in steps {
            match step {
                Step::Propose(n) => cluster.propose(n),
                Step::Restart(n) => cluster.restart(n),
                Step::Hear { to, from, age } => cluster.hear(to, from, age),
            }
        }
        cluster.settle();
    }
}

#[test]
fn votes_of_several_ballots_do_not_add_up() {
    const A: usize = 0;
    const B: usize = 1;
    const C: usize = 2;
    const D: usize = 3;
    const E: usize = 4;
    let mut cluster = Cluster::new(5);
    let mut ballot = |proposer: usize, others: [usize; 2], voters: &[usize]| {
        cluster.propose(proposer);
        for other in others {
            cluster.hear(other, proposer, 0);
        }
        for other in others {
            cluster.hear(proposer, other, 0);
        }
        for &voter in voters {
            cluster.hear(voter, proposer, 0);
            cluster.hear(proposer, voter, 0);
        }
        let vote = cluster.nodes[proposer].ours().expect("it voted");
        assert!(vote.accepted.is_some());
        (vote.accepted_value.clone(), cluster.nodes[E].clone())
    };
    let (first, _) = ballot(A, [B, E], &[]);
    let (second, _) = ballot(C, [D, E], &[]);
    assert_ne!(first, second);
    assert_eq!(ballot(B, [A, D], &[]).0, first);
    assert_eq!(ballot(C, [D, E], &[D]).0, second);
    let (voted, seen_by_e) = ballot(B, [A, E], &[E]);
    assert_eq!(voted, first);
    // Three of five now voted for the first value, and so the original takes it for chosen.
    let votes = seen_by_e.gossip_state().values();
    assert_eq!(
        votes
            .filter(|claims| claims.accepted_value == first)
            .count(),
        3
    );
    assert_eq!(seen_by_e.consensus(), None);
    // Yet the next ballot chooses the other.
    assert_eq!(ballot(C, [A, D], &[A, D]).0, second);
    let mut chosen = second.value;
    chosen.sort_unstable();
    assert_eq!(cluster.nodes[C].consensus(), Some(chosen));
}
