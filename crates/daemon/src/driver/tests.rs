//! Drivers over fake planes and disks, with real links on the loopback interface.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use ipam::{Allocate, Init, Ipam, IpamConfig, Patience};
use mesh::status::{TargetState, TargetStatus};
use mesh::{DirectPeer, MeshConfig};
use node::{Addresses, Connect, Forget};
use overlay::sleeve::lane::{SleeveEvent, SpecialKind};
use overlay::table::ForwardingTable;
use tokio::net::{TcpListener, TcpStream};
use wire::PeerName;

use super::fake::{Air, Deed, FakeDisk, FakePlane, Journal};
use super::*;
use crate::links;
use crate::task::{Task, Tasks};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A driver that does not run yet, and what is beneath it.
struct Stage {
    driver: Driver,
    handle: Handle,
    plane: FakePlane,
    journal: Journal,
    disk_is_full: Arc<AtomicBool>,
    /// Where it accepts links.
    address: SocketAddr,
    _accept: Task,
}

impl Stage {
    /// Of the `n`-th peer.
    fn new(n: u8, air: &Air) -> Self {
        let us = PeerName::from_u64(0x0200_0000_0000 + u64::from(n));
        let journal = Journal::default();
        let (disk, disk_is_full) = FakeDisk::new(&journal);
        let store = Arc::new(Store::on(disk).expect("an empty disk"));
        let links = Links::new(Some(LOOPBACK), Tasks::default());
        let listeners = links::listen(Some(LOOPBACK), 0).expect("a free port");
        let address = listeners[0].local_addr().expect("bound");
        let accept = links::accept(listeners, links.0.events(), &Tasks::default());
        let plane = FakePlane::new(us, air, &journal);
        let node = Node::new(config(us, n), [n; 32], clock::now());
        let (driver, handle) = Driver::new(node, links, Box::new(plane.clone()), store);
        journal.take();
        Self {
            driver,
            handle,
            plane,
            journal,
            disk_is_full,
            address,
            _accept: accept,
        }
    }

    /// A stage with a link that is no matter of the node, and its far end.
    async fn with_link(n: u8) -> (Self, LinkId, TcpStream) {
        let mut stage = Self::new(n, &Air::default());
        let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let near = TcpStream::connect(address).await.expect("connect");
        let (far, _) = listener.accept().await.expect("accept");
        let link = stage.driver.links.adopt(near);
        (stage, link, far)
    }
}

/// A peer that allocates addresses once two others agree.
fn config(us: PeerName, n: u8) -> node::Config {
    let range = "10.32.0.0/24".parse().expect("a subnet");
    let ipam = IpamConfig {
        name: us,
        nickname: format!("host-{n}"),
        uid: u64::from(n),
        universe: range,
        default_subnet: range,
        init: Init::Consensus(Some(3)),
        reclaim_after: None,
    };
    let ipam = Ipam::new(ipam, Vec::new(), [n; 32], clock::now()).expect("no rows");
    let mut config = node::Config::new(MeshConfig::new(us, format!("host-{n}")));
    config.ipam = Some(ipam);
    config
}

/// Lets a driver run until something is done.
async fn drive<T>(driver: &mut Driver, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            turn = driver.turn() => assert!(turn.expect("a turn").is_continue()),
        }
    }
}

fn connect(to: SocketAddr) -> Connect {
    Connect {
        peers: vec![DirectPeer {
            text: to.to_string(),
            ip: to.ip(),
            port: Some(to.port()),
        }],
        replace: false,
    }
}

/// An address that nobody gives out while there is no quorum.
fn wish() -> Addresses<Allocate> {
    Addresses(Allocate {
        ident: "c1".to_owned(),
        subnet: None,
        is_container: true,
        patience: Patience::Forever,
    })
}

/// What the node says of addresses that are not connected.
async fn targets(handle: &Handle) -> Vec<TargetStatus> {
    let snapshot = handle.snapshot().await.expect("a snapshot");
    snapshot.status(clock::now()).mesh.targets
}

fn record(text: &str) -> Record {
    Record::DirectPeers(vec![text.to_owned()])
}

fn send(link: LinkId) -> Output {
    Output::Send {
        link,
        bytes: b"promise".to_vec(),
    }
}

fn heartbeat() -> PlaneEvent {
    let heartbeat = SleeveEvent::Special {
        from: SocketAddr::from(([192, 0, 2, 1], 6783)),
        kind: SpecialKind::Heartbeat { connection_uid: 1 },
    };
    PlaneEvent::Tunnel(heartbeat.on(LinkId::outbound(1)))
}

#[tokio::test]
async fn record_is_durable_before_what_was_said_with_it_is_done() {
    let (mut stage, link, _far) = Stage::with_link(1).await;
    let table = Arc::new(ForwardingTable::default());
    let outputs = vec![Output::Program(table), send(link)];
    let turn = Turn::new(vec![record("peer")], outputs);
    stage.driver.carry_out_turn(turn).expect("a good disk");
    let deeds = stage.journal.take();
    assert_eq!(deeds.first(), Some(&Deed::Durable), "{deeds:?}");
    assert_eq!(deeds.last(), Some(&Deed::Program(Vec::new())), "{deeds:?}");
    assert!(
        !stage.driver.links.written(link, 0),
        "the message is queued"
    );
}

#[tokio::test]
async fn nothing_is_done_when_a_record_does_not_become_durable() {
    let (mut stage, link, _far) = Stage::with_link(1).await;
    stage.disk_is_full.store(true, Ordering::Relaxed);
    let table = Arc::new(ForwardingTable::default());
    let outputs = vec![send(link), Output::Program(table)];
    let turn = Turn::new(vec![record("peer")], outputs);
    let error = stage.driver.carry_out_turn(turn);
    let error = error.expect_err("a full disk");
    assert!(error.to_string().contains("cannot be written"), "{error}");
    assert!(stage.driver.links.written(link, 0), "a message is queued");
    assert_eq!(stage.journal.take(), []);
}

#[tokio::test]
async fn requests_that_wait_together_share_one_transaction() {
    let mut stage = Stage::new(1, &Air::default());
    let targets = [1, 2, 3, 4].map(|port| SocketAddr::from((LOOPBACK, port)));
    let mut calls: Vec<_> = targets
        .iter()
        .map(|to| Box::pin(stage.handle.ask(connect(*to))))
        .collect();
    // Each puts its request into the queue when it is polled first.
    poll_fn(|context| {
        for call in &mut calls {
            assert!(call.as_mut().poll(context).is_pending());
        }
        Poll::Ready(())
    })
    .await;
    let before = stage.driver.store.commits();
    assert!(stage.driver.turn().await.expect("a turn").is_continue());
    for call in calls {
        assert!(matches!(call.await, Ok(())));
    }
    assert_eq!(stage.driver.store.commits() - before, 1);
}

#[tokio::test]
async fn tunnel_events_are_taken_however_much_else_there_is() {
    let mut stage = Stage::new(1, &Air::default());
    for _ in 0..EVENTS_PER_TURN / 2 {
        stage.plane.tell(heartbeat());
        let ended = LinkEvent::Ended(LinkId::inbound(9), "EOF".to_owned());
        stage.driver.links.events().try_send(ended).expect("room");
    }
    assert!(stage.driver.turn().await.expect("a turn").is_continue());
    assert_eq!(stage.plane.untaken(), 0);
}

#[tokio::test]
async fn probe_follows_the_snapshot_that_knows_its_tunnel() {
    let air = Air::default();
    let (a, b) = (Stage::new(1, &air), Stage::new(2, &air));
    let probes = async {
        let connected = a.handle.ask(connect(b.address)).await;
        assert!(matches!(connected, Ok(())));
        for journal in [&a.journal, &b.journal] {
            let deeds = journal.until(|deed| matches!(deed, Deed::Probe(_))).await;
            let mut known = Vec::new();
            for deed in deeds {
                match deed {
                    Deed::Durable => {}
                    Deed::Program(links) => known = links,
                    Deed::Probe(link) => assert!(known.contains(&link), "{link:?} {known:?}"),
                }
            }
        }
    };
    tokio::select! {
        () = probes => {}
        ended = a.driver.run() => panic!("{ended:?}"),
        ended = b.driver.run() => panic!("{ended:?}"),
    }
}

#[tokio::test]
async fn link_whose_queue_is_full_ends_and_the_node_hears_why() {
    let mut stage = Stage::new(1, &Air::default());
    let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let handle = stage.handle.clone();
    let greeted = async {
        handle.ask(connect(address)).await.expect("an answer");
        let (far, _) = listener.accept().await.expect("accept");
        let greeting = far.peek(&mut [0; 9]).await;
        assert!(greeting.is_ok_and(|bytes| bytes > 0));
        // It is never read.
        far
    };
    let _far = drive(&mut stage.driver, greeted).await;
    let link = LinkId::outbound(0);
    assert!(stage.driver.links.contains(link));
    let turn = Turn::new(Vec::new(), (0..2000).map(|_| send(link)).collect());
    stage.driver.carry_out_turn(turn).expect("a good disk");
    stage.driver.carry_out().expect("a good disk");
    assert!(!stage.driver.links.contains(link));
    let targets = drive(&mut stage.driver, targets(&handle)).await;
    let [target] = &targets[..] else {
        panic!("{targets:?}");
    };
    let (TargetState::Failed { error, .. } | TargetState::Retrying(error)) = &target.state else {
        panic!("{targets:?}");
    };
    assert!(error.ends_with(&links::QueueFull.to_string()), "{error}");
}

/// How a driver ended, run as the daemon runs it, and what those were told who waited for an answer
/// then or asked later.
async fn fatal(hurt: impl FnOnce(&FakePlane)) -> (String, [String; 2]) {
    let stage = Stage::new(1, &Air::default());
    let tasks = Tasks::default();
    let _driver = tasks.keep("driver", stage.driver.run());
    let wish = stage.handle.ask(wish());
    tokio::pin!(wish);
    tokio::select! {
        biased;
        reply = &mut wish => panic!("{reply:?}"),
        // Wanted behind it, so the driver has the wish when this is there.
        snapshot = stage.handle.snapshot() => assert!(snapshot.is_ok()),
    }
    hurt(&stage.plane);
    let waited = wish.await.expect_err("stopped").to_string();
    let late = stage.handle.snapshot().await.expect_err("stopped");
    (
        tasks.first_end().await.to_string(),
        [waited, late.to_string()],
    )
}

#[tokio::test]
async fn end_of_the_data_plane_ends_the_driver_and_who_waits_hears_why() {
    let ended = Ended::Panicked {
        thread: "weft-tx",
        message: "index out of bounds".to_owned(),
    };
    let why = ended.to_string();
    let (end, told) = fatal(|plane| plane.end(ended)).await;
    assert_eq!(end, format!("driver: {why}"));
    for told in told {
        assert_eq!(told, format!("the daemon is stopping: {why}"));
    }
}

#[tokio::test]
async fn panic_of_the_driver_is_told_to_who_waits() {
    let (end, told) = fatal(FakePlane::break_down).await;
    assert_eq!(end, "driver panicked: an event of no tunnel");
    for told in told {
        assert_eq!(told, "the daemon is stopping: the driver panicked");
    }
}

#[tokio::test]
async fn who_got_a_reply_reads_a_state_that_contains_its_effect() {
    let mut stage = Stage::new(1, &Air::default());
    let handle = stage.handle.clone();
    let nobody = |n: u8| SocketAddr::from(([127, 0, 0, n], 9));
    let talk = async {
        let typed = async || {
            let snapshot = handle.snapshot().await.expect("a snapshot");
            snapshot.status(clock::now()).mesh.direct_peers
        };
        let mut expected = Vec::new();
        for n in 2..9 {
            handle.ask(connect(nobody(n))).await.expect("a reply");
            expected.push(nobody(n).to_string());
            assert_eq!(typed().await, expected);
        }
        let peers = expected.split_off(1);
        handle.ask(Forget { peers }).await.expect("a reply");
        assert_eq!(typed().await, expected);
    };
    drive(&mut stage.driver, talk).await;
}

#[tokio::test]
async fn however_many_read_the_driver_makes_one_snapshot_in_a_turn() {
    let mut stage = Stage::new(1, &Air::default());
    for round in 0..3 {
        stage.plane.tell(heartbeat());
        assert!(stage.driver.turn().await.expect("a turn").is_continue());
        let handle = stage.handle.clone();
        let mut readers: Vec<_> = (0..1000).map(|_| Box::pin(handle.snapshot())).collect();
        poll_fn(|context| {
            for reader in &mut readers {
                assert!(reader.as_mut().poll(context).is_pending(), "{round}");
            }
            Poll::Ready(())
        })
        .await;
        assert!(stage.driver.turn().await.expect("a turn").is_continue());
        let newest = stage.driver.snapshots.newest().expect("it was wanted");
        for reader in readers {
            let snapshot = reader.await.expect("a snapshot");
            assert!(Arc::ptr_eq(&snapshot, &newest));
        }
    }
}

#[tokio::test]
async fn driver_makes_no_view_that_nobody_wants() {
    let mut stage = Stage::new(1, &Air::default());
    let handle = stage.handle.clone();
    let ask = handle.ask(connect(stage.address));
    assert!(drive(&mut stage.driver, ask).await.is_ok());
    assert!(stage.driver.snapshots.newest().is_none());
    let counts = drive(&mut stage.driver, handle.counts()).await;
    assert_eq!(counts.expect("counts").peers, 1);
    assert!(stage.driver.snapshots.newest().is_none());
    assert!(stage.driver.counts.newest().is_some());
}

#[tokio::test]
async fn state_that_did_not_change_is_read_without_the_driver() {
    let mut stage = Stage::new(1, &Air::default());
    let handle = stage.handle.clone();
    let first = drive(&mut stage.driver, handle.snapshot()).await;
    // Nobody drives it meanwhile.
    let second = handle.snapshot().await.expect("a snapshot");
    assert!(Arc::ptr_eq(&first.expect("a snapshot"), &second));
}
