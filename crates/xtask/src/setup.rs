//! System programs our commands need, and how to get the missing ones.
//!
//! Installs by `apt-get` where it exists and we are root; elsewhere it names what is missing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program and the Debian package that brings it.
pub(crate) struct Program {
    name: &'static str,
    package: &'static str,
}

const fn program(name: &'static str, package: &'static str) -> Program {
    Program { name, package }
}

/// What `demo` drives.
pub(crate) const FOR_DEMO: &[Program] = &[
    program("ip", "iproute2"),
    program("ping", "iputils-ping"),
    program("tcpdump", "tcpdump"),
];

/// What `race` drives.
pub(crate) const FOR_RACE: &[Program] = &[
    program("ip", "iproute2"),
    program("ping", "iputils-ping"),
    program("iperf3", "iperf3"),
    program("ethtool", "ethtool"),
];

/// What `profile` drives.
pub(crate) const FOR_PROFILE: &[Program] = &[
    program("ip", "iproute2"),
    program("ping", "iputils-ping"),
    program("iperf3", "iperf3"),
    program("perf", "linux-perf"),
];

/// What the kernel tests drive.
pub(crate) const FOR_TEST: &[Program] = &[
    program("ip", "iproute2"),
    program("nft", "nftables"),
    program("iptables", "iptables"),
    program("tcpdump", "tcpdump"),
    program("iperf3", "iperf3"),
    program("ping", "iputils-ping"),
    program("ethtool", "ethtool"),
    program("ncat", "ncat"),
    program("busybox", "busybox-static"),
    program("nsenter", "util-linux"),
];

/// The Docker engine; installed without starting a service of it.
pub(crate) const DOCKER: &[Program] = &[
    program("dockerd", "docker.io"),
    program("docker", "docker.io"),
];

/// Asked by Debian's packages before they start a service; 101 means "no".
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing. What cannot be installed is said and returned.
pub(crate) fn ensure(programs: &[Program]) -> Vec<&'static str> {
    let missing: Vec<&Program> = programs.iter().filter(|p| find(p.name).is_none()).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let mut packages: Vec<&str> = missing.iter().map(|p| p.package).collect();
    packages.dedup();
    let names = packages.join(" ");
    if !is_root() || find("apt-get").is_none() {
        println!("missing: {names}. Please install them; apt-get as root would do it for you.");
    } else {
        println!("installing {names}");
        without_services(|| install(&packages));
    }
    missing
        .iter()
        .map(|p| p.name)
        .filter(|name| find(name).is_none())
        .collect()
}

/// Whether we may make namespaces.
pub(crate) fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1))
        .is_some_and(|effective| effective == "0")
}

/// The search path with the system directories, which users often lack.
pub(crate) fn search_path() -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    format!("{own}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
}

/// Where a program is, if anywhere.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    search_path()
        .split(':')
        .filter(|directory| !directory.is_empty())
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.is_file())
}

fn install(packages: &[&str]) {
    let steps: [&[&str]; 2] = [
        &["update", "-q"],
        &["install", "-q", "-y", "--no-install-recommends"],
    ];
    for (step, extra) in steps.iter().zip([&[][..], packages]) {
        let output = Command::new("apt-get")
            .args(["-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300"])
            .args(*step)
            .args(extra)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("PATH", search_path())
            .output();
        match output {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let words = String::from_utf8_lossy(&output.stderr);
                println!("apt-get {} ended with {}:\n{words}", step[0], output.status);
            }
            Err(error) => println!("apt-get: {error}"),
        }
    }
}

/// Runs `work` while packages are told not to start services, unless the machine has a policy of
/// its own.
fn without_services(work: impl FnOnce()) {
    let policy = Path::new(SERVICE_POLICY);
    let ours = !policy.exists()
        && fs::write(policy, "#!/bin/sh\nexit 101\n").is_ok()
        && fs::set_permissions(policy, fs::Permissions::from_mode(0o755)).is_ok();
    work();
    if ours && let Err(error) = fs::remove_file(policy) {
        println!("{SERVICE_POLICY}: {error}; please remove it");
    }
}
