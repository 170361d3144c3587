//! Who to hand things to on their way to others (spec/mesh.md 12).
//!
//! Two graphs over the peer table, each with a unicast table and broadcast trees computed from it:
//! the established and symmetric one for the data plane, the one over all connections for gossip.

use std::collections::{BTreeMap, BTreeSet};

use wire::PeerName;

use crate::peers::{Adjacency, Peer, PeerTable};

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
    edges: Edges,
    /// Ascending, so that an index orders like a name.
    names: Vec<PeerName>,
    us: usize,
    /// Revision of the table the rows were made from.
    revision: u64,
    /// Whom each peer lists in a state that counts, whatever the others say.
    listed: Matrix,
    /// The edges.
    neighbours: Matrix,
    unicast: BTreeMap<PeerName, PeerName>,
}

impl Routes {
    /// Calculates routes.
    pub(crate) fn calculate(peers: &PeerTable, edges: Edges) -> Self {
        let mut routes = Self {
            edges,
            names: Vec::new(),
            us: 0,
            revision: 0,
            listed: Matrix::default(),
            neighbours: Matrix::default(),
            unicast: BTreeMap::new(),
        };
        routes.recalculate(peers);
        routes
    }

    /// Calculates them again; looks only at entries that changed as long as nobody came or went.
    pub(crate) fn recalculate(&mut self, peers: &PeerTable) {
        let is_same = peers.names().eq(self.names.iter().copied());
        if !is_same {
            self.names = peers.names().collect();
            let us = self.names.binary_search(&peers.us());
            self.us = us.expect("we are in our own table");
            self.listed = Matrix::new(self.names.len());
            self.neighbours = Matrix::new(self.names.len());
        }
        let since = self.revision;
        let changed: Vec<usize> = (0..)
            .zip(peers.iter())
            .filter(|(_, (_, peer))| !is_same || peer.revision > since)
            .map(|(row, (_, peer))| {
                self.list(row, peer);
                row
            })
            .collect();
        self.revision = peers.revision();
        for row in changed {
            self.connect(row);
        }
        self.unicast = self.find_unicast();
    }

    fn list(&mut self, row: usize, peer: &Peer) {
        self.listed.clear(row);
        for (remote, adjacency) in &peer.adjacencies {
            if (self.edges == Edges::All || adjacency.established)
                && let Ok(column) = self.names.binary_search(remote)
            {
                self.listed.set(row, column, true);
            }
        }
    }

    /// Brings the edges of a peer up to date with what is listed.
    fn connect(&mut self, row: usize) {
        if self.edges == Edges::All {
            let listed = self.listed.row(row).to_vec();
            self.neighbours.row_mut(row).copy_from_slice(&listed);
            return;
        }
        for column in 0..self.names.len() {
            let is_edge = self.listed.has(row, column) && self.listed.has(column, row);
            self.neighbours.set(row, column, is_edge);
            self.neighbours.set(column, row, is_edge);
        }
    }

    /// Destination to next hop; ourselves map to the unknown name.
    pub(crate) fn unicast(&self) -> &BTreeMap<PeerName, PeerName> {
        &self.unicast
    }

    /// Breadth first from ourselves: level by level, ascending within a level, first finder wins.
    fn find_unicast(&self) -> BTreeMap<PeerName, PeerName> {
        let mut next_hops = vec![None; self.names.len()];
        next_hops[self.us] = Some(PeerName::UNKNOWN);
        self.search(self.us, |finder, found| {
            let is_ours = finder == self.us;
            next_hops[found] = if is_ours {
                Some(self.names[found])
            } else {
                next_hops[finder]
            };
        });
        let found = self.names.iter().zip(next_hops);
        found
            .filter_map(|(name, hop)| Some((*name, hop?)))
            .collect()
    }

    /// The neighbours that get a copy of what `origin` broadcasts.
    pub(crate) fn broadcast(&self, origin: PeerName) -> Vec<PeerName> {
        let Ok(origin) = self.names.binary_search(&origin) else {
            return Vec::new();
        };
        // The search of the unicast table from the origin, stopped just before it gets to us.
        let Some(found) = self.found_before_us(origin) else {
            return Vec::new();
        };
        let ours = self.neighbours.row(self.us).iter().zip(&found);
        let missed: Vec<u64> = ours.map(|(ours, found)| ours & !found).collect();
        bits(&missed).map(|n| self.names[n]).collect()
    }

    /// Who had been found when the search from `origin` got to us; `None` if it never does.
    fn found_before_us(&self, origin: usize) -> Option<Vec<u64>> {
        let mut found = vec![0; self.neighbours.words];
        found[origin / 64] |= 1 << (origin % 64);
        let mut level = found.clone();
        while level.iter().any(|word| *word != 0) {
            let mut next_level = vec![0; level.len()];
            for peer in bits(&level) {
                if peer == self.us {
                    return Some(found);
                }
                let row = self.neighbours.row(peer);
                for ((row, found), next) in row.iter().zip(&mut found).zip(&mut next_level) {
                    *next |= row & !*found;
                    *found |= row;
                }
            }
            level = next_level;
        }
        None
    }

    /// Searches breadth first until everybody is found: `visit` gets finder and found.
    fn search(&self, from: usize, mut visit: impl FnMut(usize, usize)) {
        let mut found = vec![0; self.neighbours.words];
        found[from / 64] |= 1 << (from % 64);
        let mut missing = self.names.len() - 1;
        let mut level = found.clone();
        while missing > 0 && level.iter().any(|word| *word != 0) {
            let mut next_level = vec![0; level.len()];
            for peer in bits(&level) {
                let row = self.neighbours.row(peer);
                let new: Vec<u64> = row
                    .iter()
                    .zip(&found)
                    .map(|(row, found)| row & !found)
                    .collect();
                for (at, word) in new.iter().enumerate() {
                    found[at] |= word;
                    next_level[at] |= word;
                }
                for neighbour in bits(&new) {
                    missing -= 1;
                    visit(peer, neighbour);
                }
                if missing == 0 {
                    return;
                }
            }
            level = next_level;
        }
    }
}

/// A square of bits.
#[derive(Debug, Default)]
struct Matrix {
    words: usize,
    rows: Vec<u64>,
}

impl Matrix {
    fn new(size: usize) -> Self {
        let words = size.div_ceil(64);
        Self {
            words,
            rows: vec![0; words * size],
        }
    }

    fn row(&self, row: usize) -> &[u64] {
        &self.rows[row * self.words..][..self.words]
    }

    fn row_mut(&mut self, row: usize) -> &mut [u64] {
        &mut self.rows[row * self.words..][..self.words]
    }

    fn clear(&mut self, row: usize) {
        self.row_mut(row).fill(0);
    }

    fn has(&self, row: usize, column: usize) -> bool {
        self.row(row)[column / 64] >> (column % 64) & 1 != 0
    }

    fn set(&mut self, row: usize, column: usize, value: bool) {
        let word = &mut self.row_mut(row)[column / 64];
        let bit = 1 << (column % 64);
        *word = if value { *word | bit } else { *word & !bit };
    }
}

/// The positions of the bits set, ascending.
fn bits(words: &[u64]) -> impl Iterator<Item = usize> + '_ {
    words.iter().enumerate().flat_map(|(at, word)| {
        let mut left = *word;
        std::iter::from_fn(move || {
            let bit = left.trailing_zeros() as usize;
            (left != 0).then(|| {
                left &= left - 1;
                64 * at + bit
            })
        })
    })
}

/// The unicast table over all connections. Looks no further than to the last peer found, so in a
/// dense mesh it costs little more than reading our own entry.
pub(crate) fn gossip_unicast(peers: &PeerTable) -> BTreeMap<PeerName, PeerName> {
    let mut next_hops = BTreeMap::from([(peers.us(), PeerName::UNKNOWN)]);
    walk(peers, Edges::All, |finder, found| {
        let next_hop = if finder == peers.us() {
            found
        } else {
            next_hops[&finder]
        };
        next_hops.insert(found, next_hop);
        next_hops.len() < peers.len()
    });
    next_hops
}

/// Whether data can get to a peer over the topology as it is. Looks no further than to that peer.
pub(crate) fn has_established_route(peers: &PeerTable, to: PeerName) -> bool {
    let mut is_found = to == peers.us();
    walk(peers, Edges::EstablishedSymmetric, |_, found| {
        is_found |= found == to;
        !is_found
    });
    is_found
}

/// Breadth first from ourselves: level by level, ascending within a level, first finder wins.
/// `visit` gets finder and found, and says whether to go on.
fn walk(peers: &PeerTable, edges: Edges, mut visit: impl FnMut(PeerName, PeerName) -> bool) {
    let mut seen = BTreeSet::from([peers.us()]);
    let mut level = vec![peers.us()];
    while !level.is_empty() {
        let mut next_level = Vec::new();
        for name in level {
            let Some(peer) = peers.get(name) else {
                continue;
            };
            for (remote, adjacency) in &peer.adjacencies {
                if counts(peers, edges, name, *remote, adjacency) && seen.insert(*remote) {
                    next_level.push(*remote);
                    if !visit(name, *remote) {
                        return;
                    }
                }
            }
        }
        next_level.sort_unstable();
        level = next_level;
    }
}

fn counts(
    peers: &PeerTable,
    edges: Edges,
    name: PeerName,
    remote: PeerName,
    adjacency: &Adjacency,
) -> bool {
    let Some(other) = peers.get(remote) else {
        return false;
    };
    match edges {
        Edges::All => true,
        Edges::EstablishedSymmetric => {
            let back = other.adjacencies.get(&name);
            adjacency.established && back.is_some_and(|back| back.established)
        }
    }
}

#[cfg(test)]
mod tests;
