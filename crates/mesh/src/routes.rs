//! Who to hand things to on their way to others (spec/mesh.md 12).
//!
//! Two graphs over the peer table, each with a unicast table and broadcast trees computed from it:
//! the established and symmetric one for the data plane, the one over all connections for gossip.

use std::collections::BTreeMap;

use wire::PeerName;

use crate::peers::{Peer, PeerTable};

/// Which connections count as edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edges {
    /// P lists Q, in any state: gossip.
    All,
    /// P lists Q as established and Q lists P as established: the data plane.
    EstablishedSymmetric,
}

/// Routes over one kind of edges, as the topology was when they were calculated.
#[derive(Debug)]
pub(crate) struct Routes {
    /// Ascending, so that an index orders like a name.
    names: Vec<PeerName>,
    us: usize,
    /// Neighbours of each peer, ascending.
    neighbours: Vec<Vec<usize>>,
    unicast: BTreeMap<PeerName, PeerName>,
}

impl Routes {
    /// Calculates routes.
    pub(crate) fn calculate(peers: &PeerTable, edges: Edges) -> Self {
        let names: Vec<PeerName> = peers.names().collect();
        let neighbours = peers
            .iter()
            .map(|(name, peer)| neighbours(peers, &names, name, peer, edges))
            .collect();
        let us = names
            .binary_search(&peers.us())
            .expect("we are in our own table");
        let mut routes = Self {
            names,
            us,
            neighbours,
            unicast: BTreeMap::new(),
        };
        let listed = |peer: usize, out: &mut Vec<usize>| out.clone_from(&routes.neighbours[peer]);
        routes.unicast = find_unicast(&routes.names, us, listed);
        routes
    }

    /// Destination to next hop; ourselves map to the unknown name.
    pub(crate) fn unicast(&self) -> &BTreeMap<PeerName, PeerName> {
        &self.unicast
    }

    /// The neighbours that get a copy of what `origin` broadcasts.
    pub(crate) fn broadcast(&self, origin: PeerName) -> Vec<PeerName> {
        let Ok(origin) = self.names.binary_search(&origin) else {
            return Vec::new();
        };
        let Some(found) = self.found_before_us(origin) else {
            return Vec::new();
        };
        let ours = self.neighbours[self.us].iter();
        ours.filter(|neighbour| !found[**neighbour])
            .map(|n| self.names[*n])
            .collect()
    }

    /// The search of the unicast table from `origin`, stopped just before it gets to us: who had
    /// been found by then. `None` if it never gets to us.
    fn found_before_us(&self, origin: usize) -> Option<Vec<bool>> {
        let mut found = vec![false; self.names.len()];
        found[origin] = true;
        let mut missing = self.names.len() - 1;
        let mut level = vec![origin];
        while !level.is_empty() {
            let mut next_level = Vec::new();
            for peer in level {
                if peer == self.us || missing == 0 {
                    return Some(found);
                }
                for neighbour in self.neighbours[peer].iter().copied() {
                    if !std::mem::replace(&mut found[neighbour], true) {
                        missing -= 1;
                        next_level.push(neighbour);
                    }
                }
            }
            next_level.sort_unstable();
            level = next_level;
        }
        None
    }
}

/// The unicast table over all connections. Looks no further than to the last peer found, so in a
/// dense mesh it costs little more than reading our own entry.
pub(crate) fn gossip_unicast(peers: &PeerTable) -> BTreeMap<PeerName, PeerName> {
    let (names, entries): (Vec<PeerName>, Vec<&Peer>) = peers.iter().unzip();
    let us = names
        .binary_search(&peers.us())
        .expect("we are in our own table");
    find_unicast(&names, us, |at, out| {
        *out = neighbours(peers, &names, names[at], entries[at], Edges::All);
    })
}

/// Breadth first from ourselves: level by level, ascending within a level, first finder wins.
fn find_unicast(
    names: &[PeerName],
    us: usize,
    list_neighbours: impl Fn(usize, &mut Vec<usize>),
) -> BTreeMap<PeerName, PeerName> {
    let mut next_hops: Vec<Option<PeerName>> = vec![None; names.len()];
    next_hops[us] = Some(PeerName::UNKNOWN);
    let mut missing = names.len() - 1;
    let mut level = vec![us];
    let mut listed = Vec::new();
    while !level.is_empty() && missing > 0 {
        let mut next_level = Vec::new();
        for peer in level {
            if missing == 0 {
                break;
            }
            list_neighbours(peer, &mut listed);
            for neighbour in listed.iter().copied() {
                if next_hops[neighbour].is_none() {
                    let is_ours = peer == us;
                    next_hops[neighbour] = if is_ours {
                        Some(names[neighbour])
                    } else {
                        next_hops[peer]
                    };
                    next_level.push(neighbour);
                    missing -= 1;
                }
            }
        }
        next_level.sort_unstable();
        level = next_level;
    }
    let found = names.iter().zip(next_hops);
    found
        .filter_map(|(name, hop)| Some((*name, hop?)))
        .collect()
}

fn neighbours(
    peers: &PeerTable,
    names: &[PeerName],
    name: PeerName,
    peer: &Peer,
    edges: Edges,
) -> Vec<usize> {
    let counts = |remote: PeerName, established: bool| match edges {
        Edges::All => true,
        Edges::EstablishedSymmetric => {
            let back = peers
                .get(remote)
                .and_then(|remote| remote.adjacencies.get(&name));
            established && back.is_some_and(|back| back.established)
        }
    };
    peer.adjacencies
        .iter()
        .filter(|(remote, adjacency)| counts(**remote, adjacency.established))
        .filter_map(|(remote, _)| names.binary_search(remote).ok())
        .collect()
}

#[cfg(test)]
mod tests;
