//! The `IPAM` section of the report and of metrics, from the allocator's own status (spec/ipam.md 12).

use std::net::Ipv4Addr;

use api::report::{ClaimedCidr, Contest, Displaced, Ipam, Paxos, PendingClaim, RingEntry};
use ipam::address::Range;
use ipam::snapshot::IpamCounts;
use ipam::status::IpamStatus;
use report::metrics::Allocation;
use wire::quote::printable;

use crate::advice;

/// Builds the section. `clone_text` says that another machine has our name.
pub(super) fn report(status: &IpamStatus, clone_text: Option<&str>) -> Ipam {
    let claims = status
        .pending_claims
        .iter()
        .map(|(ident, cidr)| PendingClaim {
            ident: ident.clone(),
            cidr: ClaimedCidr {
                addr: cidr.address.to_string(),
                prefix_len: cidr.prefix_len,
            },
        });
    let allocates = status
        .pending_allocates
        .iter()
        .map(|(ident, subnet)| format!("{ident} {subnet}"));
    let contests = status.contested.iter().map(|contest| Contest {
        range: shown(contest.range),
        ours: contest.ours.to_string(),
        theirs: contest.theirs.to_string(),
        teller: contest.teller.to_string(),
    });
    let displaced = status.displaced.iter().map(|displaced| Displaced {
        ident: displaced.ident.clone(),
        address: displaced.cidr.to_string(),
        clash: displaced.clash.clone(),
    });
    Ipam {
        paxos: status.election.as_ref().map(|election| Paxos {
            elector: election.is_elector,
            known_nodes: election.known_nodes,
            quorum: election.quorum,
        }),
        range: status.universe.to_string(),
        range_num_ips: status.universe.size(),
        active_ips: status.active,
        default_subnet: status.default_subnet.to_string(),
        entries: entries(status),
        pending_claims: none_if_empty(claims.collect()),
        pending_allocates: none_if_empty(allocates.collect()),
        status: advice::phase(status.phase),
        contested: contests.collect(),
        unconfirmed: status.unconfirmed.iter().copied().map(shown).collect(),
        displaced: displaced.collect(),
        clone: clone_text.map(advice::name_taken),
    }
}

/// What metrics count of the allocator.
pub(super) fn counts(counts: &IpamCounts, has_clone: bool) -> Allocation {
    let unreachable = counts.shares.unreachable();
    Allocation {
        active_ips: counts.active,
        range_num_ips: counts.universe,
        unreachable_peers: unreachable.peers,
        unreachable_ips: unreachable.addresses,
        pending_allocates: counts.pending_allocates,
        pending_claims: counts.pending_claims,
        contested: counts.contested,
        unconfirmed: counts.unconfirmed,
        displaced: counts.displaced,
        ring_entries: counts.shares.entries(),
        has_clone,
    }
}

fn entries(status: &IpamStatus) -> Option<Vec<RingEntry>> {
    let entries = status.entries.as_ref()?.iter().map(|entry| RingEntry {
        token: Ipv4Addr::from_bits(entry.token).to_string(),
        size: entry.size,
        peer: entry.peer.to_string(),
        nickname: printable(&entry.nickname),
        is_known_peer: entry.is_known,
        version: entry.version,
    });
    none_if_empty(entries.collect())
}

/// A range as people read it: one prefix where it is one, else first and last address.
fn shown(range: Range) -> String {
    match range.as_cidr() {
        Some(cidr) => cidr.to_string(),
        None => {
            let last = Ipv4Addr::from_bits(range.end.wrapping_sub(1));
            format!("{}-{last}", Ipv4Addr::from_bits(range.start))
        }
    }
}

fn none_if_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
