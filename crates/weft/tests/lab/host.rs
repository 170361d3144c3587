//! One host of a lab: its namespace, its daemon and what its command line answers.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::rc::Rc;

use rustix::process::Signal;

use super::namespace::{Namespace, run, signal, text};
use super::patience::{wait_for, wait_until};

/// A host; its daemon keeps everything in a directory of its own.
pub(crate) struct Host {
    name: String,
    number: usize,
    /// Its network namespace.
    pub(crate) namespace: Namespace,
    directory: PathBuf,
    password: RefCell<Option<String>>,
    /// What else its daemons find in their environment.
    environment: RefCell<Vec<(String, String)>>,
    interfaces: Cell<usize>,
    addresses: RefCell<Vec<String>>,
}

/// What a run of the command line gave.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Answer {
    fn new(output: &Output) -> Self {
        let code = output.status.code().unwrap_or(-1);
        Self {
            code,
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// Fails the test unless the exit code is 0; returns the standard output.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }
}

impl Host {
    pub(crate) fn new(
        (name, number): (&str, usize),
        namespace: Namespace,
        directory: PathBuf,
        password: Option<String>,
    ) -> Self {
        for part in ["state", "run"] {
            std::fs::create_dir_all(directory.join(part)).expect("the lab's directory is writable");
        }
        let password = RefCell::new(password);
        Self {
            name: name.to_owned(),
            number,
            namespace,
            directory,
            password,
            environment: RefCell::default(),
            interfaces: Cell::new(0),
            addresses: RefCell::new(Vec::new()),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The name its daemon gets.
    pub(crate) fn peer_name(&self) -> String {
        format!("00:00:00:00:00:{:02x}", self.number)
    }

    /// Its address on the `index`th network it was joined to.
    pub(crate) fn address(&self, index: usize) -> String {
        self.addresses.borrow()[index]
            .split('/')
            .next()
            .expect("split gives one")
            .to_owned()
    }

    /// Where the daemon keeps its state (`state`) and its run files (`run`).
    pub(crate) fn path(&self, part: &str) -> PathBuf {
        self.directory.join(part)
    }

    pub(super) fn next_interface(&self) -> String {
        format!("eth{}", self.interfaces.replace(self.interfaces.get() + 1))
    }

    /// The underlay interfaces.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        (0..self.interfaces.get())
            .map(|number| format!("eth{number}"))
            .collect()
    }

    pub(super) fn plug(&self, interface: &str, address: &str) {
        if address.contains(':') {
            self.namespace
                .ip(&["addr", "add", address, "dev", interface, "nodad"]);
        } else {
            self.namespace
                .ip(&["addr", "add", address, "dev", interface]);
        }
        self.namespace.ip(&["link", "set", interface, "up"]);
        self.addresses.borrow_mut().push(address.to_owned());
    }

    /// Gives this host's daemon another password, or none.
    pub(crate) fn set_password(&self, password: Option<&str>) {
        *self.password.borrow_mut() = password.map(str::to_owned);
    }

    /// Gives daemons launched from now on this environment variable.
    pub(crate) fn set_environment(&self, name: &str, value: &str) {
        let mut environment = self.environment.borrow_mut();
        environment.retain(|(known, _)| known != name);
        environment.push((name.to_owned(), value.to_owned()));
    }

    /// The command line, to be run on this host.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.namespace.command(env!("CARGO_BIN_EXE_weft"));
        self.dress(&mut command);
        command
    }

    fn dress(&self, command: &mut Command) {
        command
            .env("WEFT_STATE_DIR", self.path("state"))
            .env("WEFT_RUN_DIR", self.path("run"));
        for name in [
            "WEAVE_PASSWORD",
            "DOCKER_HOST",
            "WEAVE_HTTP_ADDR",
            "WEAVE_PORT",
        ] {
            command.env_remove(name);
        }
    }

    /// Runs the command line.
    pub(crate) fn weft(&self, arguments: &[&str]) -> Answer {
        Answer::new(&run(self.command().args(arguments)))
    }

    /// `weft launch`, with the password in the environment, and with names that show which host it
    /// is: all hosts of a lab are one machine and would derive the same name from it.
    pub(crate) fn try_launch(&self, arguments: &[&str]) -> Answer {
        let mut command = self.command();
        if let Some(password) = self.password.borrow().as_deref() {
            command.env("WEAVE_PASSWORD", password);
        }
        command.envs(self.environment.borrow().iter().cloned());
        command.args([
            "launch",
            "--nickname",
            &self.name,
            "--name",
            &self.peer_name(),
        ]);
        Answer::new(&run(command.args(arguments)))
    }

    /// `weft launch` that has to succeed.
    pub(crate) fn launch(&self, arguments: &[&str]) {
        self.try_launch(arguments).ok();
    }

    /// `weft launch` with the first address of each of these hosts as peers.
    pub(crate) fn join(&self, peers: &[&Self]) {
        let addresses: Vec<String> = peers.iter().map(|peer| peer.address(0)).collect();
        self.launch(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// `weft status <what>`.
    pub(crate) fn status(&self, what: &str) -> String {
        self.weft(&["status", what]).out
    }

    /// Waits until exactly `count` connections are established.
    pub(crate) fn wait_established(&self, count: usize) {
        wait_for(
            &format!("{count} established connections on {}", self.name),
            || {
                let status = self.status("connections");
                let established = status.lines().filter(|line| is_established(line)).count();
                if established == count {
                    Ok(())
                } else {
                    Err(format!("{status}{}", self.story()))
                }
            },
        );
    }

    /// Waits until `status <what>` satisfies `fact`, and returns it.
    pub(crate) fn wait_status(&self, what: &str, fact: impl Fn(&str) -> bool) -> String {
        wait_for(&format!("status {what} on {}", self.name), || {
            let status = self.status(what);
            if fact(&status) {
                Ok(status)
            } else {
                Err(format!("{status}{}", self.story()))
            }
        })
    }

    /// Waits until this host knows `count` peers, itself included.
    pub(crate) fn wait_peers(&self, count: usize) {
        self.wait_status("peers", |status| {
            status
                .lines()
                .filter(|line| !line.starts_with(' ') && !line.is_empty())
                .count()
                == count
        });
    }

    /// Everything that runs on this host, with command lines.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        let read = |pid: i32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let spaced = |bytes: &[u8]| text(bytes).replace('\0', " ");
        self.namespace
            .pids()
            .into_iter()
            .map(|pid| (pid, spaced(&read(pid))))
            .collect()
    }

    /// The daemon itself: the youngest of the processes of our binary on this host.
    pub(crate) fn daemon_pid(&self) -> Option<i32> {
        let ours: Vec<i32> = self.processes().into_iter().map(|(pid, _)| pid).collect();
        let parent = |pid: i32| -> Option<i32> {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
        };
        let is_parent = |pid: i32| ours.iter().any(|other| parent(*other) == Some(pid));
        ours.iter().copied().filter(|pid| !is_parent(*pid)).max()
    }

    /// Ends the daemon the hard way, and only it.
    pub(crate) fn kill_daemon(&self) -> i32 {
        let pid = self.daemon_pid().expect("a daemon runs");
        signal(pid, Signal::KILL);
        pid
    }

    /// Ends every process on this host the hard way.
    pub(crate) fn kill_everything(&self) {
        let pids = self.namespace.pids();
        pids.iter().for_each(|pid| signal(*pid, Signal::KILL));
        if !std::thread::panicking() {
            wait_until("killed processes to be gone", || {
                pids.iter().all(|pid| is_gone(*pid))
            });
        }
    }

    /// Status and the end of each log, for the message of a failed test.
    pub(crate) fn story(&self) -> String {
        let mut story = format!("\n==== host {}\n", self.name);
        for what in ["connections", "peers"] {
            let answer = self.weft(&["status", what]);
            let _ = write!(story, "-- status {what}\n{}{}", answer.out, answer.err);
        }
        for file in files(&self.directory)
            .iter()
            .filter(|f| f.extension().is_some_and(|e| e == "log"))
        {
            let log = std::fs::read(file)
                .map(|bytes| text(&bytes))
                .unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(40)..].join("\n");
            let _ = writeln!(story, "-- {}\n{tail}", file.display());
        }
        story
    }
}

/// Whether a process has ended and given back what it held; nobody may have asked for its status yet.
fn is_gone(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
}

fn is_established(line: &str) -> bool {
    line.split_whitespace().nth(2) == Some("established")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// A container: a namespace on a host that can be attached.
pub(crate) struct Container {
    /// Its network namespace.
    pub(crate) namespace: Namespace,
    host: Rc<Host>,
}

impl Container {
    pub(super) fn new(namespace: Namespace, host: Rc<Host>) -> Self {
        Self { namespace, host }
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// Runs `weft <verb> [addresses] --netns <this>`.
    pub(crate) fn weft(&self, verb: &str, addresses: &[&str]) -> Answer {
        let place = ["--netns", self.namespace.name()];
        self.host.weft(&[&[verb], addresses, &place].concat())
    }

    /// Attaches it; has to succeed. Returns what the command printed.
    pub(crate) fn attach(&self, addresses: &[&str]) -> String {
        self.weft("attach", addresses).ok()
    }

    /// Detaches it; has to succeed. Returns what the command printed.
    pub(crate) fn detach(&self, addresses: &[&str]) -> String {
        self.weft("detach", addresses).ok()
    }
}
