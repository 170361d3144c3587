//! What holds for any state and any bytes.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;
use wire::PeerName;
use wire::ipam::stored::{decode_direct_peers, decode_owned, decode_peer_name, decode_ring};
use wire::ipam::{
    AcceptedValue, Entry, GossipState, NodeClaims, NodeId, ProposalId, Range, Ring, Unicast,
    decode_state, encode_state,
};

use crate::vectors::{bytes, load};

fn name() -> impl Strategy<Value = PeerName> {
    any::<u64>().prop_map(PeerName::from_u64)
}

prop_compose! {
    fn node()(name in name(), uid in any::<u64>()) -> NodeId {
        NodeId { name, uid }
    }
}

prop_compose! {
    fn proposal()(round in any::<u64>(), proposer in node()) -> ProposalId {
        ProposalId { round, proposer }
    }
}

prop_compose! {
    fn claims()(
        promise in proposal(),
        accepted in proposal(),
        value in vec(name(), 0..4),
        origin in proposal(),
    ) -> NodeClaims {
        NodeClaims { promise, accepted, accepted_value: AcceptedValue { value, origin } }
    }
}

prop_compose! {
    fn entry()(
        (token, peer) in (any::<u32>(), name()),
        (version, free) in (any::<u32>(), any::<u32>()),
    ) -> Entry {
        Entry { token, peer, version, free }
    }
}

prop_compose! {
    fn ring()(
        (start, end, peer) in (any::<u32>(), any::<u32>(), name()),
        (entries, seeds) in (vec(entry(), 0..6), vec(name(), 0..4)),
    ) -> Ring {
        Ring { start, end, peer, entries, seeds }
    }
}

prop_compose! {
    fn state()(
        now in any::<i64>(),
        nicknames in btree_map(name(), any::<String>(), 0..4),
        paxos in option::of(btree_map(node(), claims(), 0..4)),
        ring in option::of(ring()),
    ) -> GossipState {
        GossipState { now, nicknames, paxos, ring }
    }
}

fn unicast() -> impl Strategy<Value = Unicast> {
    let range = || any::<(u32, u32)>().prop_map(|(start, end)| Range { start, end });
    prop_oneof![
        range().prop_map(Unicast::SpaceRequest),
        range().prop_map(Unicast::Denied),
        state().prop_map(Unicast::RingUpdate),
        (3..=u8::MAX).prop_map(Unicast::Unknown),
    ]
}

/// Real payloads and stored values with some bytes changed, and cut.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let samples: Vec<Vec<u8>> = ["ipam-gossip", "ipam-unicast", "persist"]
        .into_iter()
        .flat_map(|kind| load("ipam.json", Some(kind)))
        .map(|vector| bytes(&vector["expect"]))
        .collect();
    let changes = vec((any::<Index>(), any::<u8>()), 0..6);
    let parts = (
        proptest::sample::select(samples),
        changes,
        any::<Index>(),
        any::<bool>(),
    );
    parts.prop_map(|(mut bytes, changes, end, is_cut)| {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if is_cut {
            bytes.truncate(end.index(bytes.len()));
        }
        bytes
    })
}

/// Decodes as everything; whatever decodes survives being encoded.
fn decode_all(bytes: &[u8]) {
    if let Ok(state) = decode_state(bytes) {
        assert_eq!(decode_state(&encode_state(&state)), Ok(state));
    }
    if let Ok(unicast) = Unicast::decode(bytes) {
        assert_eq!(Unicast::decode(&unicast.encode()), Ok(unicast));
    }
    let _ = decode_peer_name(bytes);
    let _ = decode_ring(bytes);
    let _ = decode_owned(bytes);
    let _ = decode_direct_peers(bytes);
}

proptest! {
    #[test]
    fn a_state_survives_the_wire(state in state()) {
        prop_assert_eq!(decode_state(&encode_state(&state)), Ok(state));
    }

    #[test]
    fn a_unicast_survives_the_wire(unicast in unicast()) {
        prop_assert_eq!(Unicast::decode(&unicast.encode()), Ok(unicast));
    }

    #[test]
    fn damaged_bytes_are_refused_or_mean_something(bytes in damaged()) {
        decode_all(&bytes);
        decode_all(bytes.get(1..).unwrap_or(&[]));
    }

    #[test]
    fn noise_is_refused(bytes in vec(any::<u8>(), 0..300)) {
        decode_all(&bytes);
    }
}
