//! Kernel tests of the password: who gets in, and what can be seen from outside.

mod lab;

use std::net::TcpStream;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use daemon::config::SleeveCipher;
use lab::host::Host;
use lab::patience::holds_for;
use lab::traffic::{assert_no_pings, assert_pings, transfer, wait_ping};
use lab::{Lab, PASSWORD};

/// How long two hosts are watched that must not come together.
const WATCHED: Duration = Duration::from_secs(8);

/// What a host's daemon has logged so far.
fn log_of(host: &Host) -> String {
    let file = host.path("run").join("weft.log");
    std::fs::read_to_string(file).unwrap_or_default()
}

/// Attaches a container on each of two hosts and asserts that they stay apart.
fn assert_apart(lab: &Lab, hosts: &[Rc<Host>; 2]) {
    let containers = [
        lab.attached(&hosts[0], "c", &["10.32.0.1/24"]),
        lab.attached(&hosts[1], "c", &["10.32.0.2/24"]),
    ];
    holds_for(WATCHED, "that nothing is established", || {
        hosts
            .iter()
            .all(|host| !host.status("connections").contains("established"))
    });
    assert_no_pings(&containers[0].namespace, "10.32.0.2");
    assert_no_pings(&containers[1].namespace, "10.32.0.1");
}

/// F22, F33, F40: another password, another key; the log says why.
#[test]
fn a_peer_with_another_password_is_kept_out() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts[1].set_password(Some("another password entirely"));
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    assert_apart(&lab, &hosts);
    let status = hosts[1].status("connections");
    assert!(
        status.contains("failed") || status.contains("retrying"),
        "{status}"
    );
    let logs = hosts.each_ref().map(|host| log_of(host));
    let told = logs
        .iter()
        .any(|log| log.contains("Unable to decrypt TCP msg"));
    assert!(told, "{logs:?}");
}

/// F39: a peer without a password joins none with one.
#[test]
fn a_peer_without_a_password_is_kept_out() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts[1].set_password(None);
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    hosts[1].wait_status("connections", |status| {
        status.contains("no password specificed, but peer requested an encrypted connection")
    });
    assert_apart(&lab, &hosts);
}

/// F39, from the other side.
#[test]
fn a_peer_with_a_password_does_not_join_one_without() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts[0].set_password(None);
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    assert_apart(&lab, &hosts);
}

/// F22: networks on the same wire that have a port or a password of their own stay apart, and so do
/// their containers, though all have addresses of one subnet.
#[test]
fn networks_on_one_underlay_do_not_mix() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b", "c", "d"]);
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    // Hosts of the second network know the first one's addresses.
    let others: Vec<String> = hosts.iter().map(|host| host.address(0)).collect();
    for (host, known) in [(&hosts[2], [0, 1]), (&hosts[3], [0, 2])] {
        host.set_password(Some("the password of the second network"));
        let known = known.map(|at| others[at].as_str());
        host.launch(&[&["--port", "7783"][..], &known].concat());
    }
    hosts[2].weft(&["connect", "192.168.77.1:6783"]).ok();
    hosts.iter().for_each(|host| host.wait_established(1));
    let attached = |at: usize, address: &str| lab.attached(&hosts[at], "c", &[address]);
    let containers = [
        attached(0, "10.32.0.1/24"),
        attached(1, "10.32.0.2/24"),
        attached(2, "10.32.0.3/24"),
        attached(3, "10.32.0.4/24"),
    ];
    wait_ping(&containers[0].namespace, "10.32.0.2");
    wait_ping(&containers[2].namespace, "10.32.0.4");
    assert_no_pings(&containers[0].namespace, "10.32.0.3");
    assert_no_pings(&containers[3].namespace, "10.32.0.1");
    hosts.iter().for_each(|host| host.wait_peers(2));
}

/// F41: a password that could be guessed is taken, with a warning.
#[test]
fn a_short_password_is_warned_about() {
    let Some(lab) = Lab::encrypted() else { return };
    let host = lab.host("a");
    host.set_password(Some("hunter22"));
    let answer = host.try_launch(&[]);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(answer.err.contains("passphrase is short"), "{answer:?}");
    assert!(!answer.err.contains("hunter22"), "{answer:?}");
    host.weft(&["stop"]).ok();
    host.set_password(Some(PASSWORD));
    let answer = host.try_launch(&[]);
    assert_eq!(answer.err, "", "{answer:?}");
}

#[test]
fn the_right_password_still_works_after_wrong_ones() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts[1].set_password(Some("wrong"));
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    hosts[1].wait_status("connections", |status| status.contains("failed"));
    hosts[1].weft(&["stop"]).ok();
    hosts[1].set_password(Some(PASSWORD));
    hosts[1].join(&[&hosts[0]]);
    hosts.iter().for_each(|host| host.wait_established(1));
}

/// F27: the password is all there is to configure.
#[test]
fn status_says_that_a_connection_is_encrypted() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    hosts[1].wait_established(1);
    let status = hosts[1].wait_status("connections", |status| status.contains("mtu=1414"));
    assert!(status.contains("encrypted   sleeve"), "{status}");
    let summary = hosts[1].weft(&["status"]).ok();
    assert!(summary.contains("Encryption: enabled"), "{summary}");
}

/// F27, F28: whatever each offers, two Wefts agree on what seals their datagrams.
#[test]
fn two_wefts_seal_datagrams_by_what_both_offer() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b"]);
    let capture = lab.capture();
    let rounds = [
        ("auto", best_cipher()),
        ("secretbox", "cipher=xsalsa20-poly1305"),
        ("auto", best_cipher()),
    ];
    let address = hosts[0].address(0);
    hosts[0].launch(&[]);
    hosts[1].launch(&[]);
    let one = lab.attached(&hosts[0], "c", &["10.32.0.1/24"]);
    let two = lab.attached(&hosts[1], "c", &["10.32.0.2/24"]);
    for (offered, expected) in rounds {
        hosts[1].weft(&["stop"]).ok();
        hosts[1].set_environment("WEFT_SLEEVE_CIPHER", offered);
        hosts[1].launch(&[&address]);
        for host in &hosts {
            host.wait_status("connections", |status| status.contains(expected));
        }
        wait_ping(&one.namespace, "10.32.0.2");
        transfer(&one.namespace, &two.namespace, "10.32.0.2", 1_000_000);
        transfer(&two.namespace, &one.namespace, "10.32.0.1", 1_000_000);
    }
    assert_eq!(capture.marker_count(), 0);
}

/// What two Wefts on this machine agree on.
fn best_cipher() -> &'static str {
    let has_aes = SleeveCipher::Auto.offers_aes_gcm();
    if has_aes {
        "cipher=aes-256-gcm"
    } else {
        "cipher=xsalsa20-poly1305"
    }
}

#[test]
fn mutually_trusted_subnets_talk_in_clear() {
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts
        .iter()
        .for_each(|host| host.set_password(Some(PASSWORD)));
    let capture = lab.capture();
    let trust = ["--trusted-subnets", "192.168.77.0/24"];
    hosts[0].launch(&trust);
    hosts[1].launch(&[&trust[..], &["192.168.77.1"]].concat());
    hosts.iter().for_each(|host| host.wait_established(1));
    assert!(hosts[0].status("connections").contains("unencrypted"));
    let one = lab.attached(&hosts[0], "c", &["10.32.0.1/24"]);
    let two = lab.attached(&hosts[1], "c", &["10.32.0.2/24"]);
    wait_ping(&one.namespace, "10.32.0.2");
    transfer(&one.namespace, &two.namespace, "10.32.0.2", 100_000);
    assert!(capture.marker_count() > 0);
}

#[test]
fn trust_from_one_side_alone_stays_encrypted() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts[0].launch(&["--trusted-subnets", "192.168.77.0/24"]);
    hosts[1].join(&[&hosts[0]]);
    hosts.iter().for_each(|host| host.wait_established(1));
    let status = hosts[0].status("connections");
    assert!(status.contains(" encrypted"), "{status}");
    let one = lab.attached(&hosts[0], "c", &["10.32.0.1/24"]);
    let two = lab.attached(&hosts[1], "c", &["10.32.0.2/24"]);
    wait_ping(&one.namespace, "10.32.0.2");
    transfer(&one.namespace, &two.namespace, "10.32.0.2", 100_000);
}

#[test]
fn the_password_is_in_no_process_list() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts.iter().for_each(|host| host.set_password(None));
    let file = lab.directory().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).expect("the lab's directory is writable");
    hosts[0].launch(&["--password-file", &file.to_string_lossy()]);
    hosts[1].launch(&["--password", PASSWORD, &hosts[0].address(0)]);
    hosts.iter().for_each(|host| host.wait_established(1));
    for host in &hosts {
        let processes = host.processes();
        assert!(!processes.is_empty());
        let showing = processes.iter().find(|(_, line)| line.contains(PASSWORD));
        assert_eq!(showing, None);
    }
}

/// F30, F35: neither the password nor its hash is ever sent.
#[test]
fn the_password_is_never_on_the_underlay() {
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts
        .iter()
        .for_each(|host| host.set_password(Some(PASSWORD)));
    let capture = lab.capture();
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    hosts.iter().for_each(|host| host.wait_established(1));
    let record = capture.stop();
    assert!(!record.is_empty());
    assert_eq!(lab::capture::count(&record, PASSWORD.as_bytes()), 0);
    let hash = sha256(PASSWORD);
    assert_eq!(lab::capture::count(&record, &hash), 0);
}

/// The hash of a text, by the program `sha256sum`.
fn sha256(text: &str) -> Vec<u8> {
    let command = format!("printf %s '{text}' | sha256sum");
    let output = lab::namespace::run(Command::new("sh").args(["-c", &command]));
    let digits: Vec<u32> = output.stdout[..64]
        .iter()
        .map(|digit| {
            char::from(*digit)
                .to_digit(16)
                .expect("a hexadecimal digit")
        })
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).expect("eight bits"))
        .collect()
}

/// F24: one port number, TCP and UDP.
#[test]
fn only_one_port_is_used_between_hosts() {
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b"]);
    let capture = lab.capture();
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    hosts.iter().for_each(|host| host.wait_established(1));
    let one = lab.attached(&hosts[0], "c", &["10.32.0.1/24"]);
    let _two = lab.attached(&hosts[1], "c", &["10.32.0.2/24"]);
    wait_ping(&one.namespace, "10.32.0.2");
    // All but the first fragment of a datagram have no ports.
    let filter = "ip and (tcp or udp) and ip[6:2] & 0x1fff = 0 and not port 6783";
    assert_eq!(
        capture.matching(filter),
        "",
        "IPv4 packets beside port 6783"
    );
}

#[test]
fn control_is_not_reachable_from_other_hosts() {
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts[0].launch(&[]);
    for port in [6784, 6782] {
        let target = format!("{}:{port}", hosts[0].address(0))
            .parse()
            .expect("an address");
        let limit = Duration::from_secs(2);
        let dialled = hosts[1]
            .namespace
            .within(|| TcpStream::connect_timeout(&target, limit));
        assert!(dialled.is_err(), "port {port} answers");
    }
}

#[test]
fn strangers_and_their_noise_do_not_disturb() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b", "stranger"]);
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    hosts
        .iter()
        .take(2)
        .for_each(|host| host.wait_established(1));
    let one = lab.attached(&hosts[0], "c", &["10.32.0.1/24"]);
    let _two = lab.attached(&hosts[1], "c", &["10.32.0.2/24"]);
    wait_ping(&one.namespace, "10.32.0.2");
    hosts[2].namespace.within(|| noise("192.168.77.1:6783"));
    hosts
        .iter()
        .take(2)
        .for_each(|host| host.wait_established(1));
    assert_pings(&one.namespace, "10.32.0.2");
}

/// Two hundred datagrams and fifty connections of bytes that mean nothing.
fn noise(target: &str) {
    use std::io::Write;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a free port");
    for length in 0..200_usize {
        let bytes: Vec<u8> = (0..length * 7).map(|i| (i * 31 + length) as u8).collect();
        socket.send_to(&bytes, target).expect("the underlay works");
    }
    for number in 0..50_u8 {
        let limit = Duration::from_secs(2);
        let address = target.parse().expect("an address");
        let Ok(mut stream) = TcpStream::connect_timeout(&address, limit) else {
            continue;
        };
        // The other side may close at once, which is its right.
        let _ = stream.write_all(&[number; 300]);
    }
}
