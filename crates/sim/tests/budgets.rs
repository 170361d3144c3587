//! Budgets in virtual time: how soon an undisturbed mesh is complete, and what it costs to keep.

use std::time::Duration;

use sim::check::Observer;
use sim::churn::{self, Churn, quantile};
use sim::come_to_rest;
use sim::plan::{Plan, Setting};
use sim::ring::{self, CUT, CUT_ASK_EVERY, Study};
use sim::world::World;

const PEERS: usize = 12;
/// Every pair connected, tunnels verified, topology agreed upon. One announcement takes a second,
/// and a heartbeat that comes too early half a second.
const REST_MAX: Duration = Duration::from_secs(5);
/// Bytes a quiet peer may send on its links, per second.
const QUIET_BYTES_MAX: u64 = 2_000;
/// Ten rounds of periodic gossip.
const QUIET: Duration = Duration::from_secs(300);

fn undisturbed() -> (World, Plan) {
    let plan = Plan::undisturbed(PEERS);
    let setting = Setting {
        seed: 1,
        peers: None,
        events: None,
        hostile: false,
    };
    (World::new(&plan, setting, None), plan)
}

#[test]
fn twelve_peers_are_a_full_mesh_within_seconds() {
    let (mut world, plan) = undisturbed();
    come_to_rest(&mut world, &plan).unwrap();
    assert!(world.now() <= REST_MAX, "{:?}", world.now());
    let links = Observer::new(&world, &plan).links().len();
    assert_eq!(links, PEERS * (PEERS - 1));
}

#[test]
fn a_quiet_mesh_sends_little() {
    let (mut world, plan) = undisturbed();
    come_to_rest(&mut world, &plan).unwrap();
    let before = world.link_bytes;
    world.run_until(world.now() + QUIET).unwrap();
    let rate = (world.link_bytes - before) / QUIET.as_secs() / PEERS as u64;
    assert!(rate <= QUIET_BYTES_MAX, "{rate} bytes per peer and second");
}

/// Peers of the mesh that is never left in peace.
const CHURNED: usize = 40;
/// Bytes each of them may send per second: about twice what was measured.
const CHURN_BYTES_MAX: f64 = 8_000.0;
/// Bytes each may send until all have joined.
const JOIN_BYTES_MAX: f64 = 900_000.0;

#[test]
fn peers_that_come_and_go_cost_little_and_everybody_knows_soon() {
    let churn = Churn {
        seed: 7,
        peers: CHURNED,
        churn: Duration::from_secs(20),
        weft: true,
        delay_max: Duration::from_millis(50),
    };
    let outcome = churn::run(churn).unwrap();
    let joining = outcome.formation.mean_bytes * outcome.formation.secs;
    assert!(joining <= JOIN_BYTES_MAX, "{joining} bytes per peer");
    let steady = outcome.steady.mean_bytes;
    assert!(
        steady <= 700.0,
        "{steady} bytes per peer and second in peace"
    );
    let rate = outcome.churn.mean_bytes;
    assert!(rate <= CHURN_BYTES_MAX, "{rate} bytes per peer and second");
    let median = quantile(&outcome.convergence_secs, 0.5);
    assert!(median <= 2.0, "half of the news take {median} s");
    let worst = quantile(&outcome.convergence_secs, 1.0);
    assert!(worst <= 20.0, "some news take {worst} s");
    assert!(outcome.whole_after_secs <= 5.0 && outcome.healed_after_secs <= 15.0);
}

/// Time after which 99 of 100 new peers have their first address, seconds from their start.
const NEW_PEER_SECS_MAX: f64 = 2.0;

#[test]
fn new_peers_get_addresses_at_once_and_both_halves_of_a_cut_cluster_give_them_out() {
    let study = Study {
        seed: 1,
        peers: 24,
        new: 6,
        delay_max: Duration::from_millis(50),
    };
    let outcome = ring::run(study).unwrap();
    let worst_new = quantile(&outcome.new_secs, 0.99);
    assert_eq!(outcome.new_secs.len(), 6);
    assert!(worst_new <= NEW_PEER_SECS_MAX, "{outcome:?}");
    let worst_first = quantile(&outcome.first_secs, 0.99);
    assert!(worst_first <= NEW_PEER_SECS_MAX, "{outcome:?}");
    let asked = CUT.as_secs() / CUT_ASK_EVERY.as_secs();
    assert_eq!(outcome.halves.map(|n| n as u64), [asked, asked]);
    assert_eq!(outcome.unserved, 0);
    assert_eq!(outcome.used, 24 + 6 + 2 * asked as usize);
}
