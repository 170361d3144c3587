//! The peers of a soak: Weft, and the original when its path is given.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::memory::Vitals;
use crate::crash::host::{self, Host, PASSWORD, signal, underlay};
use crate::stage::{Outcome, Stage, run, wait_for};

const LIMIT: Duration = Duration::from_secs(60);
/// Largest packet of a container on the original's bridge, bytes.
const ORIGINAL_MTU_BYTES: &str = "65535";

/// A host with a router of one kind and a container.
pub(super) struct Peer<'a> {
    pub(super) host: Host<'a>,
    kind: Kind,
    /// The process that is expected to run.
    pub(super) pid: u32,
}

enum Kind {
    Weft,
    Original {
        weaver: PathBuf,
        child: Option<Child>,
    },
}

impl<'a> Peer<'a> {
    /// A host on the switch, with an empty container; `weaver` makes it an original.
    pub(super) fn lay(
        stage: &'a Stage,
        (number, count): (usize, usize),
        weft: &Path,
        weaver: Option<&Path>,
    ) -> Outcome<Self> {
        let kind = match weaver {
            Some(weaver) => Kind::Original {
                weaver: weaver.to_owned(),
                child: None,
            },
            None => Kind::Weft,
        };
        let letter = if weaver.is_some() { "o" } else { "w" };
        let mut host = Host::new(stage, weft, (&format!("{letter}{number}"), number));
        // The next two, so that every peer finds the others whoever is away.
        host.set_peers(&[number % count + 1, (number + 1) % count + 1]);
        host::lay_host(stage, &host.name, number)?;
        stage.add(&host.container(1))?;
        Ok(Self { host, kind, pid: 0 })
    }

    pub(super) fn is_weft(&self) -> bool {
        matches!(self.kind, Kind::Weft)
    }

    pub(super) fn address(&self) -> String {
        self.host.container_address(1)
    }

    /// Starts the router for the first time and plugs the container in.
    pub(super) fn start(&mut self) -> Outcome<()> {
        self.launch()?;
        match self.kind {
            Kind::Weft => self.host.attach(1),
            Kind::Original { .. } => self.plug(),
        }
    }

    fn launch(&mut self) -> Outcome<()> {
        match &mut self.kind {
            Kind::Weft => self.host.launch()?,
            Kind::Original { weaver, child } => {
                *child = Some(start_original(&self.host, weaver)?);
                wait_for("the original to answer", LIMIT, || self.host.connections())?;
            }
        }
        self.pid = self.router().ok_or_else(|| self.story())?;
        Ok(())
    }

    /// Stops the router politely and starts it again.
    pub(super) fn restart(&mut self) -> Outcome<()> {
        match &mut self.kind {
            Kind::Weft => self.host.run(&["stop"]).map(drop)?,
            Kind::Original { .. } => self.end("-TERM")?,
        }
        self.launch()
    }

    /// Ends the router the hard way; Weft is started by its supervisor, the original by us.
    pub(super) fn kill(&mut self) -> Outcome<()> {
        if self.is_weft() {
            host::kill(self.pid);
            self.pid = self.host.wait_daemon(Some(self.pid))?.pid;
            return Ok(());
        }
        self.end("-KILL")?;
        self.launch()
    }

    fn end(&mut self, how: &str) -> Outcome<()> {
        signal(self.pid, how);
        if let Kind::Original { child, .. } = &mut self.kind
            && let Some(mut outer) = child.take()
        {
            wait_for("the original to end", LIMIT, || match outer.try_wait() {
                Ok(None) => Err("it runs".to_owned()),
                Ok(Some(_)) | Err(_) => Ok(()),
            })?;
        }
        Ok(())
    }

    /// The process that is the router, if it runs.
    pub(super) fn router(&self) -> Option<u32> {
        match &self.kind {
            Kind::Weft => self.host.daemon().map(|daemon| daemon.pid),
            Kind::Original { weaver, .. } => {
                let is_it = |pid: &u32| {
                    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    words.starts_with(weaver.as_os_str().as_encoded_bytes())
                };
                self.host.processes().iter().map(|p| p.pid).find(is_it)
            }
        }
    }

    /// What the router uses now.
    pub(super) fn vitals(&self) -> Outcome<Vitals> {
        let full = self.host.stage.full(&self.host.name);
        let links = run(Command::new("ip").args(["-n", &full, "-o", "link"]))?;
        Vitals::read(self.pid, links.lines().count())
    }

    /// How many connections work; `None` if it does not answer.
    pub(super) fn established(&self) -> Option<usize> {
        let connections = self.host.connections().ok()?;
        Some(host::established(&connections))
    }

    /// Lines of the log of Weft that tell of a broken invariant.
    pub(super) fn panics(&self) -> Vec<String> {
        let log = self
            .host
            .stage
            .directory()
            .join(&self.host.name)
            .join("run/weft.log");
        let log = fs::read(log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines = log.lines().filter(|line| line.contains("panicked"));
        lines.map(str::to_owned).collect()
    }

    pub(super) fn story(&self) -> String {
        self.host.story()
    }

    /// Plugs the container into the original's bridge, as its own tools do.
    fn plug(&self) -> Outcome<()> {
        let (stage, host, container) = (self.host.stage, &self.host.name, self.host.container(1));
        wait_for("the bridge of the original", LIMIT, || {
            stage.ip(host, &["link", "show", "dev", "weave"])
        })?;
        let far = stage.full(&container);
        let mtu = ["mtu", ORIGINAL_MTU_BYTES];
        let veth = ["type", "veth", "peer", "name", "ethwe"];
        let place = ["netns", far.as_str()];
        stage.ip(
            host,
            &[&["link", "add", "ctr"][..], &mtu, &veth, &mtu, &place].concat(),
        )?;
        run(stage
            .command(&container, "ethtool")
            .args(["-K", "ethwe", "tx", "off"]))?;
        stage.ip(host, &["link", "set", "ctr", "master", "weave", "up"])?;
        let address = format!("{}/12", self.address());
        stage.ip(&container, &["addr", "add", &address, "dev", "ethwe"])?;
        stage.ip(&container, &["link", "set", "ethwe", "up"])
    }
}

impl Drop for Peer<'_> {
    fn drop(&mut self) {
        if let Kind::Original {
            child: Some(child), ..
        } = &mut self.kind
        {
            // It ends with its namespace otherwise.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts the daemon in a PID namespace of its own, because it takes `/proc/1` for the host.
fn start_original(host: &Host<'_>, weaver: &Path) -> Outcome<Child> {
    let directory = host.stage.directory().join(&host.name);
    let error = |error: std::io::Error| format!("{}: {error}", directory.display());
    fs::create_dir_all(directory.join("db")).map_err(error)?;
    // Left by a run before, it makes the router use the peers of that run.
    let _ = fs::remove_file(directory.join("restart.sentinel"));
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"))
        .map_err(error)?;
    let mut command = host.stage.command(&host.name, "unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(weaver)
        .args([
            "--no-fastdp",
            "--docker-api",
            "",
            "--no-dns",
            "--port",
            "6783",
        ])
        .args([
            "--http-addr",
            "127.0.0.1:6784",
            "--status-addr",
            "127.0.0.1:6782",
        ])
        .arg("--db-prefix")
        .arg(directory.join("db/w"))
        .args(["--name", &host.peer_name(), "--nickname", &host.name])
        .args(host.peers())
        .env("CHECKPOINT_DISABLE", "1")
        .env("WEAVE_PASSWORD", PASSWORD)
        .env_remove("DOCKER_HOST")
        .current_dir(&directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(error)?)
        .stderr(log);
    command
        .spawn()
        .map_err(|e| format!("{}: {e}", weaver.display()))
}

/// Drops what two hosts send each other.
pub(super) fn cut(stage: &Stage, (a, b): (&Peer<'_>, &Peer<'_>)) -> Outcome<()> {
    let table = format!("soakcut{}", b.host.number);
    let other = underlay(b.host.number);
    let rules = format!(
        "table ip {table} {{\n\
         chain in {{ type filter hook input priority -300; ip saddr {other} drop; }}\n\
         chain out {{ type filter hook output priority -300; ip daddr {other} drop; }}\n}}"
    );
    run(stage.command(&a.host.name, "nft").arg(rules)).map(drop)
}

/// Ends what `cut` did.
pub(super) fn heal(stage: &Stage, (a, b): (&Peer<'_>, &Peer<'_>)) -> Outcome<()> {
    let table = format!("soakcut{}", b.host.number);
    let mut command = stage.command(&a.host.name, "nft");
    run(command.args(["delete", "table", "ip", &table])).map(drop)
}

/// Pulls the cable of a host, or plugs it in.
pub(super) fn set_cable(stage: &Stage, peer: &Peer<'_>, state: &str) -> Outcome<()> {
    stage.ip(
        "sw",
        &["link", "set", &format!("p{}", peer.host.number), state],
    )
}

/// One ping from the container of a peer to that of another.
pub(super) fn reaches(from: &Peer<'_>, to: &Peer<'_>) -> bool {
    let mut command = from.host.stage.command(&from.host.container(1), "ping");
    run(command.args(["-n", "-c", "1", "-W", "1", &to.address()])).is_ok()
}

/// Waits a little between two looks at something that changes by itself.
pub(super) fn pause() {
    thread::sleep(Duration::from_millis(500));
}
