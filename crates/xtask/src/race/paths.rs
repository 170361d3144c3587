//! The contestants: how a pair of hosts is set up for each path.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::Meter;
use crate::stage::{Outcome, Stage, run, wait_for};

/// Environment variable with the path of the original router's daemon (`weaver`), if it is to take part.
const ORIGINAL: &str = "WEFT_PEER_WEAVER";

const PASSWORD: &str = "race-password-with-enough-letters";
const LIMIT: Duration = Duration::from_secs(40);

/// Where a stream begins or ends.
pub(super) struct Place {
    /// Namespace.
    pub(super) space: String,
    /// Its address on the path.
    pub(super) address: String,
}

/// One contestant, ready to run.
pub(super) struct Lane {
    pub(super) name: &'static str,
    pub(super) from: Place,
    pub(super) to: Place,
}

/// A pair of hosts, before anything runs on it.
struct Pair<'a> {
    stage: &'a Stage,
    meter: &'a Meter,
    name: &'static str,
    /// Short name its namespaces begin with.
    tag: String,
}

/// Sets up every contestant.
pub(super) fn lanes(stage: &Stage, weft: &Path, meter: &Meter) -> Outcome<Vec<Lane>> {
    let pair = |name, tag: &str| Pair {
        stage,
        meter,
        name,
        tag: tag.to_owned(),
    };
    let mut lanes = vec![
        raw(&pair("raw veth", "raw"))?,
        sleeve(&pair("weft sleeve plain", "wp"), weft, None)?,
        sleeve(&pair("weft sleeve encrypted", "we"), weft, Some(PASSWORD))?,
    ];
    match std::env::var_os(ORIGINAL).map(PathBuf::from) {
        Some(weaver) => {
            lanes.push(original(&pair("original plain", "op"), &weaver, None)?);
            lanes.push(original(
                &pair("original encrypted", "oe"),
                &weaver,
                Some(PASSWORD),
            )?);
        }
        None => println!("NOT IN THE RACE: the original router; set {ORIGINAL} to its weaver"),
    }
    Ok(lanes)
}

impl Pair<'_> {
    fn host(&self, side: &str) -> String {
        format!("{}-{side}", self.tag)
    }

    fn container(&self, side: &str) -> String {
        format!("{}-c{side}", self.tag)
    }

    /// Two hosts joined by a cable; what arrives at each is processed by a core of its own.
    fn lay(&self) -> Outcome<()> {
        let (a, b) = (self.host("a"), self.host("b"));
        for space in [&a, &b, &self.container("a"), &self.container("b")] {
            self.stage.add(space)?;
        }
        self.stage.cable(
            (&a, "eth0", "192.168.99.1/24"),
            (&b, "eth0", "192.168.99.2/24"),
        )?;
        for (host, mask) in [(&a, "1"), (&b, "2")] {
            let file = "/sys/class/net/eth0/queues/rx-0/rps_cpus";
            let mut shell = self.stage.command(host, "sh");
            run(shell.args(["-c", &format!("echo {mask} > {file}")]))?;
        }
        Ok(())
    }

    /// The lane between the two containers.
    fn lane(&self) -> Outcome<Lane> {
        let place = |side: &str, address: &str| Place {
            space: self.container(side),
            address: address.to_owned(),
        };
        let lane = Lane {
            name: self.name,
            from: place("a", "10.32.0.1"),
            to: place("b", "10.32.0.2"),
        };
        wait_for(&format!("an answer through {}", self.name), LIMIT, || {
            let mut ping = self.stage.command(&lane.from.space, "ping");
            run(ping.args(["-n", "-c", "1", "-W", "1", &lane.to.address]))
        })?;
        Ok(lane)
    }

    /// A command on the core of one side's host, counted for this lane.
    fn pinned(&self, side: &str, command: &Command) -> Command {
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", if side == "a" { "0" } else { "1" }]);
        pinned.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                pinned.env(name, value);
            }
        }
        self.meter.inside(self.name, &pinned)
    }
}

fn raw(pair: &Pair<'_>) -> Outcome<Lane> {
    pair.lay()?;
    let place = |side: &str, address: &str| Place {
        space: pair.host(side),
        address: address.to_owned(),
    };
    Ok(Lane {
        name: pair.name,
        from: place("a", "192.168.99.1"),
        to: place("b", "192.168.99.2"),
    })
}

fn sleeve(pair: &Pair<'_>, weft: &Path, password: Option<&str>) -> Outcome<Lane> {
    pair.lay()?;
    for (side, peer) in [("a", None), ("b", Some("192.168.99.1"))] {
        let mut launch = pair.stage.weft(&pair.host(side), weft, &["launch"]);
        // Both hosts are one machine and would derive the same name from it.
        launch
            .args(["--name", &format!("00:00:00:00:00:0{side}")])
            .args(peer);
        if let Some(password) = password {
            launch.env("WEAVE_PASSWORD", password);
        }
        run(&mut pair.pinned(side, &launch))?;
    }
    for (side, address) in [("a", "10.32.0.1/24"), ("b", "10.32.0.2/24")] {
        let container = pair.stage.full(&pair.container(side));
        let arguments = ["attach", address, "--netns", &container];
        run(&mut pair.stage.weft(&pair.host(side), weft, &arguments))?;
    }
    wait_for("the path MTU to be known", LIMIT, || {
        let host = pair.host("b");
        let status = run(&mut pair.stage.weft(&host, weft, &["status", "connections"]))?;
        let known = status.contains(" established ") && status.contains("mtu=14");
        if known { Ok(()) } else { Err(status) }
    })?;
    pair.lane()
}

fn original(pair: &Pair<'_>, weaver: &Path, password: Option<&str>) -> Outcome<Lane> {
    pair.lay()?;
    for (side, number, peer) in [("a", "1", None), ("b", "2", Some("192.168.99.1"))] {
        start_original(pair, weaver, password, (side, number, peer))?;
    }
    for (side, address) in [("a", "10.32.0.1/24"), ("b", "10.32.0.2/24")] {
        let (host, container) = (pair.host(side), pair.container(side));
        wait_for("the bridge of the original", LIMIT, || {
            pair.stage.ip(&host, &["link", "show", "dev", "weave"])
        })?;
        plug_by_hand(pair.stage, &host, &container, address)?;
    }
    pair.lane()
}

/// Starts the daemon in a PID namespace of its own, because it takes `/proc/1` for the host.
fn start_original(
    pair: &Pair<'_>,
    weaver: &Path,
    password: Option<&str>,
    (side, number, peer): (&str, &str, Option<&str>),
) -> Outcome<()> {
    let host = pair.host(side);
    let directory = pair.stage.directory().join(&host);
    let error = |error: std::io::Error| format!("{}: {error}", directory.display());
    std::fs::create_dir_all(directory.join("db")).map_err(error)?;
    let log = std::fs::File::create(directory.join("log")).map_err(error)?;
    let mut command = pair.stage.command(&host, "unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(weaver);
    command.args([
        "--no-fastdp",
        "--docker-api",
        "",
        "--no-dns",
        "--port",
        "6783",
    ]);
    command.args([
        "--http-addr",
        "127.0.0.1:6784",
        "--status-addr",
        "127.0.0.1:6782",
    ]);
    command.arg("--db-prefix").arg(directory.join("db/w"));
    command
        .args([
            "--name",
            &format!("00:00:00:00:00:0{number}"),
            "--nickname",
            side,
        ])
        .args(peer);
    command.env("CHECKPOINT_DISABLE", "1");
    if let Some(password) = password {
        command.env("WEAVE_PASSWORD", password);
    }
    let mut pinned = pair.pinned(side, &command);
    pinned.env_remove("DOCKER_HOST").current_dir(&directory);
    pinned
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(error)?)
        .stderr(log);
    // Ended with its namespace, when the stage is taken down.
    pinned
        .spawn()
        .map(drop)
        .map_err(|error| format!("{}: {error}", weaver.display()))
}

/// Plugs a container into a bridge as the original's own tools do.
fn plug_by_hand(stage: &Stage, host: &str, container: &str, address: &str) -> Outcome<()> {
    let far = stage.full(container);
    let veth = [
        "link", "add", "ctr", "mtu", "65535", "type", "veth", "peer", "name", "ethwe",
    ];
    stage.ip(
        host,
        &[&veth[..], &["mtu", "65535", "netns", &far]].concat(),
    )?;
    run(stage
        .command(container, "ethtool")
        .args(["-K", "ethwe", "tx", "off"]))?;
    stage.ip(host, &["link", "set", "ctr", "master", "weave", "up"])?;
    stage.ip(container, &["addr", "add", address, "dev", "ethwe"])?;
    stage.ip(container, &["link", "set", "ethwe", "up"])
}
