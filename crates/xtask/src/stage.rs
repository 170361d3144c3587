//! Hosts and containers as network namespaces, for `demo` and `race`.
//!
//! Everything is called after the stage and lives in namespaces of its own, so that taking the stage
//! down is deleting them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use crate::setup;
use crate::stopwatch::Stopwatch;

/// A value, or what went wrong in words for the user.
pub(crate) type Outcome<T> = Result<T, String>;

/// A set of namespaces and a directory with one name in common.
pub(crate) struct Stage {
    name: String,
    directory: PathBuf,
    keep: bool,
}

impl Stage {
    /// An empty stage; what an earlier one of the same name left is removed first.
    pub(crate) fn new(name: &str) -> Outcome<Self> {
        if !setup::is_root() {
            return Err("network namespaces need root; please run it with sudo".to_owned());
        }
        let directory = std::env::temp_dir().join(name);
        let stage = Self {
            name: name.to_owned(),
            directory,
            keep: false,
        };
        stage.take_down();
        fs::create_dir_all(&stage.directory)
            .map_err(|error| format!("{}: {error}", stage.directory.display()))?;
        Ok(stage)
    }

    /// Leave everything standing when dropped.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The full name of a namespace.
    pub(crate) fn full(&self, space: &str) -> String {
        format!("{}-{space}", self.name)
    }

    /// Makes a namespace.
    pub(crate) fn add(&self, space: &str) -> Outcome<()> {
        let full = self.full(space);
        ip(&["netns", "add", &full])?;
        ip(&["-n", &full, "link", "set", "lo", "up"])
    }

    /// Runs `ip` on a namespace.
    pub(crate) fn ip(&self, space: &str, arguments: &[&str]) -> Outcome<()> {
        ip(&[&["-n", &self.full(space)][..], arguments].concat())
    }

    /// Joins two namespaces by a cable with an address at each end.
    pub(crate) fn cable(
        &self,
        (left, left_interface, left_address): (&str, &str, &str),
        (right, right_interface, right_address): (&str, &str, &str),
    ) -> Outcome<()> {
        self.plug((left, left_interface), (right, right_interface))?;
        for (space, interface, address) in [
            (left, left_interface, left_address),
            (right, right_interface, right_address),
        ] {
            self.ip(space, &["addr", "add", address, "dev", interface])?;
        }
        Ok(())
    }

    /// Joins two namespaces by a cable without addresses.
    pub(crate) fn plug(
        &self,
        (left, left_interface): (&str, &str),
        (right, right_interface): (&str, &str),
    ) -> Outcome<()> {
        let far = self.full(right);
        let near = ["link", "add", left_interface, "type", "veth"];
        let other = ["peer", "name", right_interface, "netns", &far];
        self.ip(left, &[near, other].concat())?;
        self.ip(left, &["link", "set", left_interface, "up"])?;
        self.ip(right, &["link", "set", right_interface, "up"])
    }

    /// A command that will run inside a namespace.
    pub(crate) fn command(&self, space: &str, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.full(space)])
            .arg(program.as_ref());
        command
            .env("PATH", setup::search_path())
            .stdin(Stdio::null());
        command
    }

    /// A command of this tool itself that will run inside a namespace.
    pub(crate) fn traffic(&self, space: &str, arguments: &[&str]) -> Outcome<Command> {
        let own = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
        let mut command = self.command(space, own);
        command.arg("traffic").args(arguments);
        Ok(command)
    }

    /// Directories of the daemon of a host, as environment.
    pub(crate) fn environment(&self, host: &str) -> [(&'static str, PathBuf); 2] {
        let base = self.directory.join(host);
        [
            ("WEFT_STATE_DIR", base.join("state")),
            ("WEFT_RUN_DIR", base.join("run")),
        ]
    }

    /// The command line of Weft on a host.
    pub(crate) fn weft(&self, host: &str, weft: &Path, arguments: &[&str]) -> Command {
        let mut command = self.command(host, weft);
        command.envs(self.environment(host)).args(arguments);
        command
    }

    /// Ends what runs on the stage and removes every trace.
    fn take_down(&self) {
        let listed = Command::new("ip").args(["netns", "list"]).output();
        let listed = listed
            .map(|output| text(&output.stdout))
            .unwrap_or_default();
        let prefix = format!("{}-", self.name);
        let ours: Vec<&str> = listed
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| name.starts_with(&prefix))
            .collect();
        for name in &ours {
            let pids = Command::new("ip").args(["netns", "pids", name]).output();
            let pids = pids.map(|output| text(&output.stdout)).unwrap_or_default();
            let pids: Vec<&str> = pids.split_whitespace().collect();
            if !pids.is_empty() {
                // A process may have ended by itself meanwhile.
                let _ = Command::new("kill").arg("-9").args(&pids).output();
            }
        }
        for name in &ours {
            if let Err(error) = ip(&["netns", "del", name]) {
                // Whoever listened may be gone, and the rest is to be removed all the same.
                let _ = writeln!(std::io::stderr(), "{error}");
            }
        }
        // Nothing to remove is the usual case.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.keep {
            self.take_down();
        }
    }
}

fn ip(arguments: &[&str]) -> Outcome<()> {
    let mut command = Command::new("ip");
    command.env("PATH", setup::search_path()).args(arguments);
    run(&mut command).map(drop)
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn run(command: &mut Command) -> Outcome<String> {
    finish(command.output(), command)
}

/// A command that runs on while we do other things.
pub(crate) fn start(command: &mut Command) -> Outcome<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
        .spawn()
        .map_err(|error| format!("{}: {error}", words(command)))
}

/// Waits for a command that was started; `what` names it in errors.
pub(crate) fn finish_started(child: Child, what: &str) -> Outcome<String> {
    let output = child
        .wait_with_output()
        .map_err(|error| format!("{what}: {error}"))?;
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!("{what}: {}", text(&output.stderr).trim()))
}

/// Tries until it works, for `limit` at most.
pub(crate) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> Outcome<T>,
) -> Outcome<T> {
    let watch = Stopwatch::start();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if watch.elapsed() > limit => {
                return Err(format!("{what} did not come about in {watch}: {error}"));
            }
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn finish(output: std::io::Result<Output>, command: &Command) -> Outcome<String> {
    let output = output.map_err(|error| format!("{}: {error}", words(command)))?;
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    Err(format!(
        "{} ended with {}: {}",
        words(command),
        output.status,
        said.trim()
    ))
}

fn words(command: &Command) -> String {
    let arguments: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .collect();
    format!(
        "{} {}",
        command.get_program().to_string_lossy(),
        arguments.join(" ")
    )
}

/// What a program printed, as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
