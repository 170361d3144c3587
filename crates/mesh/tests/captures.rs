//! A recorded conversation of two original peers, fed to a mesh in the place of either.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod net;

use mesh::{DirectPeer, Mesh, MeshConfig, MeshOutput};
use net::{PORT, base, secs};
use serde_json::Value;
use wire::PeerName;
use wire::message::encode_frame;

fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn capture() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/pcap_plain.json");
    let mut file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let Value::Array(vectors) = file["vectors"].take() else {
        panic!("vectors are a list")
    };
    vectors
}

/// Everything one side of the capture wrote: `outbound` is bravo, `inbound` alpha.
fn stream(side: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for vector in capture() {
        let id = vector["id"].as_str().unwrap();
        if id == format!("plain-{side}-intro") {
            bytes.extend(hex(&vector["expect"]));
        } else if id.starts_with(&format!("plain-{side}-")) {
            bytes.extend(encode_frame(&hex(&vector["input"])).unwrap());
        }
    }
    bytes
}

fn alpha() -> PeerName {
    "02:00:00:00:0a:01".parse().unwrap()
}

fn bravo() -> PeerName {
    "02:00:00:00:0b:02".parse().unwrap()
}

fn charlie() -> PeerName {
    "02:00:00:00:0c:03".parse().unwrap()
}

#[derive(Default)]
struct Heard {
    added: Vec<(PeerName, String, Option<Vec<String>>)>,
    controls: Vec<(Option<u8>, u8, Vec<u8>)>,
    channels: Vec<String>,
    closed: bool,
}

fn drain(mesh: &mut Mesh, heard: &mut Heard) {
    while let Some(output) = mesh.poll_output() {
        match output {
            MeshOutput::ConnectionAdded(c) => {
                heard
                    .added
                    .push((c.remote, c.remote_nickname, c.features.overlays));
            }
            MeshOutput::OverlayControl { control, .. } => {
                heard
                    .controls
                    .push((control.index, control.tag, control.body));
            }
            MeshOutput::Gossip { channel, .. } => heard.channels.push(channel),
            MeshOutput::Close { .. } => heard.closed = true,
            MeshOutput::Dial { .. }
            | MeshOutput::Send { .. }
            | MeshOutput::ConnectionRemoved { .. }
            | MeshOutput::ChannelStateWanted { .. }
            | MeshOutput::RoutesChanged
            | MeshOutput::ShortIdsChanged
            | MeshOutput::PeersRemoved(_)
            | MeshOutput::DirectPeersChanged(_) => {}
        }
    }
}

/// Plays one side of the capture to a mesh with the name of the other.
fn play(us: PeerName, side: &str) -> (Heard, mesh::status::MeshStatus) {
    let now = base();
    let mut mesh = Mesh::new(MeshConfig::new(us, "replayed"), [1; 32], now);
    mesh.register_channel("IPallocation");
    mesh.register_channel("nameserver");
    let mut heard = Heard::default();
    let ours = "192.168.77.1:6783".parse().unwrap();
    let link = if side == "outbound" {
        let link = wire::LinkId::inbound(0);
        mesh.handle_link_accepted(link, ours, "192.168.77.2:40000".parse().unwrap(), now);
        link
    } else {
        let ip = "192.168.77.1".parse().unwrap();
        let peer = DirectPeer {
            text: "alpha".to_owned(),
            ip,
            port: Some(PORT),
        };
        mesh.connect(vec![peer], false, now);
        let mut outputs = std::iter::from_fn(|| mesh.poll_output());
        let dial = outputs.find(|output| matches!(output, MeshOutput::Dial { .. }));
        let Some(MeshOutput::Dial { link, remote }) = dial else {
            panic!("nobody is dialled")
        };
        mesh.handle_link_connected(link, "192.168.77.2:40000".parse().unwrap(), remote, now);
        link
    };
    for chunk in stream(side).chunks(1000) {
        mesh.handle_link_bytes(link, chunk, now);
        drain(&mut mesh, &mut heard);
    }
    mesh.handle_timeout(now + secs(1));
    drain(&mut mesh, &mut heard);
    (heard, mesh.status(now + secs(1)))
}

#[test]
fn the_dialling_side_of_the_capture_is_understood() {
    let (heard, status) = play(alpha(), "outbound");
    assert!(!heard.closed);
    let overlays = Some(vec!["sleeve".to_owned()]);
    assert_eq!(heard.added, [(bravo(), "bravo".to_owned(), overlays)]);
    assert_eq!(
        heard.controls[..2],
        [(Some(0), 1, vec![]), (Some(0), 2, vec![])]
    );
    assert_eq!(heard.controls[2], (Some(0), 3, vec![0x05, 0x9e]));
    for channel in ["IPallocation", "nameserver"] {
        assert!(heard.channels.iter().any(|heard| heard == channel));
    }
    // The last thing bravo said: charlie is gone, alpha is connected and established.
    let entry = status
        .peers
        .iter()
        .find(|peer| peer.name == bravo())
        .unwrap();
    assert_eq!(entry.nickname, "bravo");
    let connections: Vec<_> = entry
        .connections
        .iter()
        .map(|c| (c.remote, c.outbound, c.established))
        .collect();
    assert_eq!(connections, [(alpha(), true, true)]);
    // Our own entry has outrun the captured one.
    let own = status
        .peers
        .iter()
        .find(|peer| peer.name == alpha())
        .unwrap();
    assert!(own.version > 3, "{}", own.version);
}

#[test]
fn the_accepting_side_of_the_capture_is_understood() {
    let (heard, status) = play(bravo(), "inbound");
    assert!(!heard.closed);
    assert_eq!(heard.added[0].0, alpha());
    assert!(!heard.controls.is_empty());
    let entry = status
        .peers
        .iter()
        .find(|peer| peer.name == alpha())
        .unwrap();
    assert_eq!(entry.connections.len(), 1);
    assert!(
        status.peers.iter().all(|peer| peer.name != charlie()),
        "charlie was killed"
    );
}
