//! Throw-away hosts and containers for kernel tests: network namespaces with unique names.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use linux::addr::Cidr;
use linux::attach::AttachConfig;
use linux::bridge::BridgeConfig;
use linux::netns::{Netns, run_in};
use wire::ethernet::MacAddr;

/// Whether kernel tests can run; says so if not.
pub fn can_run() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: kernel tests need root");
    }
    root
}

/// A network namespace, deleted at the end of the test.
pub struct Space {
    pub name: String,
    pub netns: Netns,
}

impl Space {
    pub fn new(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("weft-{role}-{}-{number}", std::process::id());
        sh(&format!(
            "ip netns add {name} && ip -n {name} link set lo up"
        ));
        let netns = Netns::named(&name).unwrap();
        Self { name, netns }
    }

    /// Runs code inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        run_in(&self.netns, work).unwrap()
    }

    /// Runs a shell command inside and returns its output; fails the test if it fails.
    pub fn sh(&self, command: &str) -> String {
        sh(&format!("ip netns exec {} sh -c '{command}'", self.name))
    }

    /// Whether a shell command inside succeeds.
    pub fn succeeds(&self, command: &str) -> bool {
        let line = format!("ip netns exec {} sh -c '{command}'", self.name);
        output(&line).status.success()
    }

    /// Whether it can reach an address.
    pub fn pings(&self, address: &str) -> bool {
        self.succeeds(&format!("ping -c 1 -W 2 {address}"))
    }

    /// A process that lives inside until dropped.
    pub fn process(&self) -> Process {
        let child = Command::new("ip")
            .args(["netns", "exec", &self.name, "sleep", "600"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        // `ip` enters the namespace and becomes the program; wait until it has.
        let deadline = 500;
        for _ in 0..deadline {
            let comm = std::fs::read_to_string(format!("/proc/{}/comm", child.id()));
            if comm.is_ok_and(|c| c.trim() == "sleep") {
                break;
            }
            std::thread::yield_now();
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Process(child)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        output(&format!("ip netns del {}", self.name));
    }
}

/// A process of a test, ended on drop.
pub struct Process(pub Child);

impl Process {
    pub fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

pub fn sh(command: &str) -> String {
    let output = output(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {text}{errors}");
    text
}

fn output(command: &str) -> std::process::Output {
    Command::new("sh").args(["-c", command]).output().unwrap()
}

pub fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

pub fn weave() -> BridgeConfig {
    let mac = MacAddr([0x02, 0, 0, 0, 0, 1]);
    BridgeConfig {
        name: "weave".to_owned(),
        mac,
        mtu_bytes: 1376,
    }
}

pub fn attachment(id: &str, addresses: &[&str]) -> AttachConfig {
    AttachConfig {
        id: id.to_owned(),
        interface: "ethwe".to_owned(),
        bridge: "weave".to_owned(),
        mtu_bytes: None,
        addresses: addresses.iter().map(|a| cidr(a)).collect(),
        multicast_route: true,
        hairpin: false,
    }
}

/// Every link of a namespace but loopback, for comparing before and after.
pub fn links(space: &Space) -> Vec<String> {
    let all = space.run(|| linux::netlink::Netlink::open().unwrap().links().unwrap());
    let mut names: Vec<_> = all
        .into_iter()
        .map(|l| l.name)
        .filter(|n| n != "lo")
        .collect();
    names.sort();
    names
}
