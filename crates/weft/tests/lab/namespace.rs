//! Network namespaces: made, entered, and removed with everything that runs in them.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// All our namespaces are called `wlab<pid>-<number>-<what>`.
const PREFIX: &str = "wlab";

static NEXT: AtomicUsize = AtomicUsize::new(1);
static SWEEP: Once = Once::new();

/// A name for one lab, used by no other lab on this machine.
pub(crate) fn next_id() -> String {
    format!(
        "{PREFIX}{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A network namespace under `/run/netns`; removed on drop, after whatever runs in it.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn new(name: &str) -> Self {
        Self::try_new(name).expect("a network namespace can be made")
    }

    pub(crate) fn try_new(name: &str) -> Result<Self, String> {
        let output = run(Command::new("ip").args(["netns", "add", name]));
        if !output.status.success() {
            return Err(text(&output.stderr));
        }
        let namespace = Self {
            name: name.to_owned(),
        };
        namespace.ip(&["link", "set", "lo", "up"]);
        Ok(namespace)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` on it and returns what it printed; fails the test if `ip` fails.
    pub(crate) fn ip(&self, arguments: &[&str]) -> String {
        let output = run(Command::new("ip").args(["-n", &self.name]).args(arguments));
        let error = text(&output.stderr);
        assert!(
            output.status.success(),
            "ip -n {} {}: {error}",
            self.name,
            arguments.join(" ")
        );
        text(&output.stdout)
    }

    /// A program that will run inside, with `/sys` as seen from inside.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// A program that will run inside the network namespace and shares everything else with us.
    pub(crate) fn entered(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg(program);
        command
    }

    /// Runs a program inside and returns what it printed; fails the test if it fails.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = run(self.command(program).args(arguments));
        let error = text(&output.stderr);
        assert!(
            output.status.success(),
            "{program} {}: {error}",
            arguments.join(" ")
        );
        text(&output.stdout)
    }

    /// Does `work` on a thread inside; sockets it opens stay inside wherever they are used.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.path()).expect("the namespace exists");
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root may enter a network namespace");
                work()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Names of its interfaces that begin with `prefix`.
    pub(crate) fn interfaces(&self, prefix: &str) -> Vec<String> {
        self.ip(&["-o", "link", "show"])
            .lines()
            .filter_map(|line| line.split(": ").nth(1))
            .map(|name| name.split('@').next().unwrap_or(name).to_owned())
            .filter(|name| name.starts_with(prefix))
            .collect()
    }

    /// The processes that run in it.
    pub(crate) fn pids(&self) -> Vec<i32> {
        pids_in(&self.name)
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Sends a signal; a process that is gone already is fine.
pub(crate) fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // Ends in an error only if the process has ended by itself.
        let _ = kill_process(pid, signal);
    }
}

pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .any(|dir| Path::new(dir).join(program).is_file())
}

/// Removes what test programs that were killed have left behind, once per test program.
pub(crate) fn sweep_once() {
    SWEEP.call_once(|| {
        let output = run(Command::new("ip").args(["netns", "list"]));
        for line in text(&output.stdout).lines() {
            let name = line.split_whitespace().next().unwrap_or_default();
            let owner = name
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                remove(name);
            }
        }
    });
}

fn remove(name: &str) {
    for pid in pids_in(name) {
        signal(pid, Signal::KILL);
    }
    run(Command::new("ip").args(["netns", "del", name]));
}

fn pids_in(name: &str) -> Vec<i32> {
    let output = run(Command::new("ip").args(["netns", "pids", name]));
    let own = i32::try_from(std::process::id()).expect("a pid fits");
    text(&output.stdout)
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .filter(|pid| *pid != own)
        .collect()
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) -> Output {
    command.stdin(std::process::Stdio::null());
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What a program printed, as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
