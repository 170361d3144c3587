//! Histories the simulation found (`cargo run -p sim -- --addresses`), about `--reclaim-after`.

mod cluster;

use std::time::Duration;

use cluster::{Cluster, config, name};
use ipam::{Init, IpamConfig};

const AFTER: Duration = Duration::from_secs(600);

/// Seed 1476: two parts of equal size both took the ranges of owners in the other part, because
/// peers that own nothing did not count once they were out of reach.
#[test]
fn neither_half_of_a_cut_cluster_reclaims_though_few_own_anything() {
    let mut c = Cluster::with(6, |n| IpamConfig {
        init: if n == 1 || n == 4 {
            Init::Seed(vec![name(1), name(4)])
        } else {
            Init::Observer
        },
        reclaim_after: Some(AFTER),
        ..config(n, "10.32.0.0/24")
    });
    c.gossip();
    for n in 1..=6 {
        let side = if n <= 3 { 1..=3 } else { 4..=6 };
        let known = side.map(|n| (name(n), format!("host{n}"))).collect();
        c.at(n, |ipam, now| ipam.handle_peers(known, now));
    }
    // Votes still reach everybody here, which only makes it harder.
    c.pass_secs(3000);
    assert_eq!(c.shares(1), [(1, 128), (4, 128)].into());
    assert_eq!(c.shares(4), [(1, 128), (4, 128)].into());
}
