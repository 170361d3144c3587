//! A Docker engine of one host's own, and containers in it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use rustix::process::Signal;

use super::host::Host;
use super::namespace::{is_installed, run, signal, text};
use super::patience::{LONG, Stopwatch, wait_for};
use super::skip;

/// The image every container is made of: busybox and nothing else.
const IMAGE: &str = "lab/busybox";

/// A running engine whose network is that of a host.
pub(crate) struct Engine {
    host: Rc<Host>,
    process: Child,
    directory: PathBuf,
}

impl Engine {
    /// Starts an engine on a host; `None`, loudly, where that cannot be. `number` keeps the engines'
    /// own bridges apart.
    pub(crate) fn start(host: &Rc<Host>, number: u8) -> Option<Self> {
        if let Some(missing) = ["dockerd", "docker", "busybox", "tar"]
            .into_iter()
            .find(|program| !is_installed(program))
        {
            skip(&format!("needs the program {missing}"));
            return None;
        }
        let directory = host.path("docker");
        std::fs::create_dir_all(&directory).expect("the lab's directory is writable");
        let part = |name: &str| directory.join(name).to_string_lossy().into_owned();
        let log = std::fs::File::create(directory.join("engine.log")).expect("a file in it too");
        let process = host
            .namespace
            .entered("dockerd")
            .args(["--data-root", &part("data"), "--exec-root", &part("exec")])
            .args([
                "-p",
                &part("pid"),
                "-H",
                &format!("unix://{}", part("sock")),
            ])
            .args([
                "--bip",
                &format!("172.21.{number}.1/24"),
                "--storage-driver",
                "vfs",
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("dockerd starts");
        let mut engine = Self {
            host: Rc::clone(host),
            process,
            directory,
        };
        if !engine.is_ready() {
            let log = std::fs::read_to_string(engine.directory.join("engine.log"));
            let log = log.unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(3)..].join(" | ");
            skip(&format!("the Docker engine does not start here: {tail}"));
            return None;
        }
        engine.import_image();
        Some(engine)
    }

    /// Waits until the engine answers; false if it ends instead.
    fn is_ready(&mut self) -> bool {
        let watch = Stopwatch::start();
        while watch.elapsed() < LONG {
            if run(self.command().arg("version")).status.success() {
                return true;
            }
            if !matches!(self.process.try_wait(), Ok(None)) {
                return false;
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        false
    }

    fn import_image(&self) {
        let root = self.directory.join("root");
        let bin = root.join("bin");
        std::fs::create_dir_all(&bin).expect("the lab's directory is writable");
        let path = std::env::var("PATH").unwrap_or_default();
        let busybox = path
            .split(':')
            .map(|directory| PathBuf::from(directory).join("busybox"))
            .find(|path| path.is_file())
            .expect("busybox is installed");
        std::fs::copy(busybox, bin.join("busybox")).expect("busybox can be copied");
        for name in ["sh", "ip", "ping", "sleep", "cat"] {
            std::os::unix::fs::symlink("busybox", bin.join(name)).expect("a new name");
        }
        let archive = self.directory.join("image.tar");
        let mut tar = Command::new("tar");
        let packed = run(tar.arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."));
        assert!(packed.status.success(), "{}", text(&packed.stderr));
        self.docker(&["import", &archive.to_string_lossy(), IMAGE]);
    }

    /// The address of the engine, as Docker's tools write it.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.directory.join("sock").display())
    }

    fn command(&self) -> Command {
        let mut command = self.host.namespace.entered("docker");
        command.args(["-H", &self.url()]);
        command
    }

    /// Runs a Docker command that has to succeed, and returns what it printed.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let output = run(self.command().args(arguments));
        assert!(
            output.status.success(),
            "docker {arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout).trim().to_owned()
    }

    /// Starts a container that does nothing, and returns its id.
    pub(crate) fn run_idle(&self, name: &str, options: &[&str]) -> String {
        let what = ["run", "-d", "--name", name];
        self.docker(&[&what[..], options, &[IMAGE, "sleep", "100000"]].concat())
    }

    /// Pings from inside a container until there is an answer.
    pub(crate) fn wait_ping(&self, container: &str, address: &str) {
        wait_for(&format!("a ping from {container} to {address}"), || {
            let ping = ["exec", container, "ping", "-c", "1", "-W", "1", address];
            let output = run(self.command().args(ping));
            if output.status.success() {
                Ok(())
            } else {
                Err(text(&output.stdout))
            }
        });
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let ids = run(self.command().args(["ps", "-aq"]));
        for id in text(&ids.stdout).split_whitespace() {
            run(self.command().args(["rm", "-f", id]));
        }
        let pid = i32::try_from(self.process.id()).expect("a pid fits");
        signal(pid, Signal::TERM);
        let watch = Stopwatch::start();
        while matches!(self.process.try_wait(), Ok(None)) && watch.elapsed() < LONG / 4 {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        // It has ended, or is too stuck to end by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
        // Network namespaces the engine keeps by a mount; gone already if it could tidy up.
        let kept = std::fs::read_dir(self.directory.join("exec/netns"));
        for entry in kept.into_iter().flatten().flatten() {
            run(Command::new("umount").arg(entry.path()));
        }
    }
}
