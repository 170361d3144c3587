//! A host of `crash` and `soak`: its cable, its daemon's processes, and what they answer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::probe::inside;
use crate::stage::{Outcome, Stage, run, wait_for};

/// All routers share it.
pub(crate) const PASSWORD: &str = "crash-password-with-enough-letters";
/// The kernel counts the start of processes in hundredths of seconds.
const TICKS_PER_SECOND: f64 = 100.0;
const LIMIT: Duration = Duration::from_secs(60);

/// A host that runs Weft.
pub(crate) struct Host<'a> {
    pub(crate) stage: &'a Stage,
    weft: PathBuf,
    pub(crate) name: String,
    pub(crate) number: usize,
    /// Addresses given to `launch`.
    peers: Vec<String>,
}

/// A process on a host.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) role: Role,
    /// Seconds since the machine started.
    pub(crate) started_secs: f64,
}

/// What a process is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Daemon,
    Supervisor,
    Other,
}

impl<'a> Host<'a> {
    pub(crate) fn new(stage: &'a Stage, weft: &Path, (name, number): (&str, usize)) -> Self {
        Self {
            stage,
            weft: weft.to_owned(),
            name: name.to_owned(),
            number,
            peers: Vec::new(),
        }
    }

    /// Which hosts it is launched with.
    pub(crate) fn set_peers(&mut self, numbers: &[usize]) {
        self.peers = numbers.iter().map(|number| underlay(*number)).collect();
    }

    /// Addresses it is launched with.
    pub(crate) fn peers(&self) -> &[String] {
        &self.peers
    }

    /// The name its daemon gets.
    pub(crate) fn peer_name(&self) -> String {
        format!("00:00:00:00:00:{:02x}", self.number)
    }

    /// A namespace of one of its containers.
    pub(crate) fn container(&self, number: usize) -> String {
        format!("{}{number}", self.name)
    }

    /// The address of one of its containers.
    pub(crate) fn container_address(&self, number: usize) -> String {
        format!("10.32.{}.{number}", self.number)
    }

    /// The command line of Weft on this host.
    pub(crate) fn weft(&self, arguments: &[&str]) -> Command {
        self.stage.weft(&self.name, &self.weft, arguments)
    }

    /// Runs Weft's command line to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome<String> {
        run(&mut self.weft(arguments))
    }

    /// `weft launch`, with a name of its own: all hosts are one machine and would take the same.
    pub(crate) fn launch_command(&self) -> Command {
        let mut command = self.weft(&["launch", "--nickname", &self.name]);
        command
            .args(["--name", &self.peer_name()])
            .args(&self.peers);
        command.env("WEAVE_PASSWORD", PASSWORD);
        command
    }

    pub(crate) fn launch(&self) -> Outcome<()> {
        run(&mut self.launch_command()).map(drop)
    }

    /// Attaches one of its containers.
    pub(crate) fn attach(&self, number: usize) -> Outcome<()> {
        let address = format!("{}/12", self.container_address(number));
        let space = self.stage.full(&self.container(number));
        self.run(&["attach", &address, "--netns", &space]).map(drop)
    }

    /// The processes in its namespace; those that have ended are not among them.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let full = self.stage.full(&self.name);
        let listed = run(Command::new("ip").args(["netns", "pids", &full])).unwrap_or_default();
        listed
            .split_whitespace()
            .filter_map(|pid| Process::read(pid.parse().ok()?))
            .collect()
    }

    /// The daemon, if one runs.
    pub(crate) fn daemon(&self) -> Option<Process> {
        self.find(Role::Daemon)
    }

    /// The process that would start another daemon, if one runs.
    pub(crate) fn supervisor(&self) -> Option<Process> {
        self.find(Role::Supervisor)
    }

    fn find(&self, role: Role) -> Option<Process> {
        self.processes()
            .into_iter()
            .find(|process| process.role == role)
    }

    /// Waits for a daemon that is not `old`.
    pub(crate) fn wait_daemon(&self, old: Option<u32>) -> Outcome<Process> {
        wait_for(&format!("a daemon on {}", self.name), LIMIT, || {
            self.daemon()
                .filter(|daemon| Some(daemon.pid) != old)
                .ok_or_else(|| self.story())
        })
    }

    /// Waits until nothing runs here.
    pub(crate) fn wait_empty(&self) -> Outcome<()> {
        wait_for(
            &format!("the processes on {} to end", self.name),
            LIMIT,
            || {
                let left = self.processes();
                if left.is_empty() {
                    Ok(())
                } else {
                    Err(format!("{left:?}"))
                }
            },
        )
    }

    /// `status connections`, asked as any router is asked.
    pub(crate) fn connections(&self) -> Outcome<String> {
        connections(self.stage, &self.name)
    }

    /// Status and the end of the log.
    pub(crate) fn story(&self) -> String {
        let status = self.connections().unwrap_or_else(|error| error);
        let log = self.stage.directory().join(&self.name).join("run/weft.log");
        let log = fs::read(log).map(|bytes| crate::stage::text(&bytes));
        let log = log.unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(30)..].join("\n");
        let processes = self.processes();
        format!("host {}\n{processes:?}\n{status}\n{tail}\n", self.name)
    }
}

/// `status connections` of a router, Weft or not.
pub(crate) fn connections(stage: &Stage, host: &str) -> Outcome<String> {
    let request = ["get", "127.0.0.1:6784", "/status/connections"];
    run(&mut inside(stage, host, &request)?)
}

/// How many of the lines are of connections that work.
pub(crate) fn established(connections: &str) -> usize {
    let state = |line: &str| line.split_whitespace().nth(2) == Some("established");
    connections.lines().filter(|line| state(line)).count()
}

/// The address of a host on the cable.
pub(crate) fn underlay(number: usize) -> String {
    format!("192.168.77.{number}")
}

/// Lays the switch that all hosts are plugged into.
pub(crate) fn lay_switch(stage: &Stage) -> Outcome<()> {
    stage.add("sw")?;
    stage.ip("sw", &["link", "add", "br0", "type", "bridge"])?;
    stage.ip("sw", &["link", "set", "br0", "up"])
}

/// Makes the namespace of a host and plugs it into the switch.
pub(crate) fn lay_host(stage: &Stage, name: &str, number: usize) -> Outcome<()> {
    stage.add(name)?;
    let port = format!("p{number}");
    let far = stage.full(name);
    let veth = ["type", "veth", "peer", "name", "eth0", "netns", &far];
    stage.ip("sw", &[&["link", "add", &port][..], &veth].concat())?;
    stage.ip("sw", &["link", "set", &port, "master", "br0", "up"])?;
    let address = format!("{}/24", underlay(number));
    stage.ip(name, &["addr", "add", &address, "dev", "eth0"])?;
    stage.ip(name, &["link", "set", "eth0", "up"])
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let directory = Path::new("/proc").join(pid.to_string());
        let stat = fs::read_to_string(directory.join("stat")).ok()?;
        // Behind the name, which may hold anything, come the fields from the third on (proc(5)).
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        // The first thread of a process that is being ended is gone before the others, and what they
        // hold open with them.
        let threads = fs::read_dir(directory.join("task")).ok()?.count();
        if matches!(*fields.first()?, "Z" | "X") && threads <= 1 {
            return None;
        }
        let ticks: f64 = fields.get(19)?.parse().ok()?;
        let words = fs::read(directory.join("cmdline")).ok()?;
        let role = match words.split(|byte| *byte == 0).nth(1) {
            Some(b"daemon") => Role::Daemon,
            Some(b"supervise") => Role::Supervisor,
            _ => Role::Other,
        };
        Some(Self {
            pid,
            role,
            started_secs: ticks / TICKS_PER_SECOND,
        })
    }
}

/// Ends a process the hard way; one that has ended is fine.
pub(crate) fn kill(pid: u32) {
    signal(pid, "-KILL");
}

/// Sends a signal; a process that has ended is fine.
pub(crate) fn signal(pid: u32, signal: &str) {
    let _ = Command::new("kill")
        .args([signal, &pid.to_string()])
        .output();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_established_connections_are_counted() {
        let status = "-> 192.168.77.1:6783     established encrypted   sleeve 00:00:00:00:00:01(a) mtu=1414\n\
                      <- 192.168.77.3:41230    pending     encrypted   sleeve 00:00:00:00:00:03(c)\n\
                      -> 192.168.77.9:6783     failed      dial tcp: timeout, retry: never\n";
        assert_eq!(established(status), 1);
    }

    #[test]
    fn this_process_is_read_from_the_kernel() {
        let own = Process::read(std::process::id()).expect("we run");
        assert_eq!(own.role, Role::Other);
        let age = super::super::probe::uptime_secs() - own.started_secs;
        assert!((-0.1..3600.0).contains(&age), "{age}");
    }
}
