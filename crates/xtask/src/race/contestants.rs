//! How each contestant is brought up on its hosts.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::network::{Lane, Network, Shape, Underlay, container_address};
use super::plan::Contestant;
use crate::race::meter::Meter;
use crate::stage::{Outcome, Stage, run, wait_for};

/// Environment variable with the path of the original router's daemon (`weaver`), if it is to take part.
const ORIGINAL: &str = "WEFT_PEER_WEAVER";

/// Environment variable with the ciphers a Weft offers for the sleeve.
const SLEEVE_CIPHER: &str = "WEFT_SLEEVE_CIPHER";

const PASSWORD: &str = "race-password-with-enough-letters";
const LIMIT: Duration = Duration::from_secs(60);

/// The binaries of Weft that take part.
pub(super) struct Binaries {
    pub(super) weft: PathBuf,
    /// The one it is compared with, if any.
    pub(super) before: Option<PathBuf>,
}

/// Where the contestants meet.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) stage: &'a Stage,
    pub(super) meter: &'a Meter,
    pub(super) shape: Shape,
    pub(super) underlay: Underlay,
}

/// Sets up every contestant that can take part.
pub(super) fn lanes(
    ground: Ground<'_>,
    binaries: &Binaries,
    contestants: &[Contestant],
) -> Outcome<Vec<Lane>> {
    let weaver = std::env::var_os(ORIGINAL).map(PathBuf::from);
    if weaver.is_none() && contestants.iter().any(|c| c.is_original()) {
        println!("NOT IN THE RACE: the original router; set {ORIGINAL} to its weaver");
    }
    let mut lanes = Vec::new();
    for &contestant in contestants {
        let network = Network {
            stage: ground.stage,
            meter: ground.meter,
            contestant,
            shape: ground.shape,
            underlay: ground.underlay,
        };
        let lane = match contestant {
            Contestant::Raw => Some(raw(&network)?),
            Contestant::Vxlan => Some(vxlan(&network)?),
            Contestant::BeforePlain | Contestant::BeforeEncrypted => {
                let before = binaries.before.as_deref();
                before.map(|before| sleeve(&network, before)).transpose()?
            }
            Contestant::WeftPlain | Contestant::WeftEncrypted | Contestant::WeftSecretbox => {
                Some(sleeve(&network, &binaries.weft)?)
            }
            Contestant::OriginalPlain | Contestant::OriginalEncrypted => {
                let weaver = weaver.as_deref();
                weaver
                    .map(|weaver| original(&network, weaver))
                    .transpose()?
            }
        };
        lanes.extend(lane);
    }
    Ok(lanes)
}

fn raw(network: &Network<'_>) -> Outcome<Lane> {
    network.lay()?;
    network.forward()?;
    open(network, network.host_lane())
}

fn vxlan(network: &Network<'_>) -> Outcome<Lane> {
    network.lay()?;
    network.lay_vxlan()?;
    open(network, network.container_lane())
}

fn sleeve(network: &Network<'_>, weft: &Path) -> Outcome<Lane> {
    network.lay()?;
    for host in network.hosts() {
        let mut launch = network.stage.weft(&network.host(host), weft, &["launch"]);
        // All hosts are one machine and would derive the same name from it.
        launch.args(["--name", &peer_name(host)]);
        launch.args(network.shape.dials(host));
        // As the original is run: containers learn what the path carries, whatever it is.
        launch.env("WEAVE_NO_FASTDP", "1");
        if network.contestant.is_encrypted() {
            launch.env("WEAVE_PASSWORD", PASSWORD);
        }
        if let Some(cipher) = network.contestant.sleeve_cipher() {
            launch.env(SLEEVE_CIPHER, cipher);
        }
        run(&mut network.pinned(host, &launch))?;
    }
    for host in network.hosts() {
        let container = network.stage.full(&network.container(host));
        let address = format!("{}/24", container_address(host));
        let arguments = ["attach", address.as_str(), "--netns", &container];
        run(&mut network.stage.weft(&network.host(host), weft, &arguments))?;
    }
    for host in network.hosts() {
        wait_for("the path MTU to be known", LIMIT, || {
            let host_name = network.host(host);
            let arguments = ["status", "connections"];
            let status = run(&mut network.stage.weft(&host_name, weft, &arguments))?;
            let known = |line: &&str| line.contains(" established ") && line.contains("mtu=14");
            let enough = network.shape.neighbours(host);
            if status.lines().filter(known).count() >= enough {
                Ok(())
            } else {
                Err(status)
            }
        })?;
    }
    open(network, network.container_lane())
}

fn original(network: &Network<'_>, weaver: &Path) -> Outcome<Lane> {
    network.lay()?;
    for host in network.hosts() {
        start_original(network, weaver, host)?;
        wait_for("the bridge of the original", LIMIT, || {
            let words = ["link", "show", "dev", "weave"];
            network.stage.ip(&network.host(host), &words)
        })?;
        plug_by_hand(network, host)?;
    }
    open(network, network.container_lane())
}

fn peer_name(host: usize) -> String {
    format!("00:00:00:00:00:{host:02x}")
}

/// The lane, once every sender has an answer from the receiver.
fn open(network: &Network<'_>, lane: Lane) -> Outcome<Lane> {
    for from in &lane.from {
        wait_for(&format!("an answer through {}", lane.name), LIMIT, || {
            let mut ping = network.stage.command(&from.space, "ping");
            run(ping.args(["-n", "-c", "1", "-W", "1", &lane.to.address]))
        })?;
    }
    Ok(lane)
}

/// Starts the daemon in a PID namespace of its own, because it takes `/proc/1` for the host.
fn start_original(network: &Network<'_>, weaver: &Path, number: usize) -> Outcome<()> {
    let host = network.host(number);
    let directory = network.stage.directory().join(&host);
    let error = |error: std::io::Error| format!("{}: {error}", directory.display());
    std::fs::create_dir_all(directory.join("db")).map_err(error)?;
    let log = std::fs::File::create(directory.join("log")).map_err(error)?;
    let mut command = network.stage.command(&host, "unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(weaver);
    command.args(["--no-fastdp", "--docker-api", "", "--no-dns"]);
    command.args(["--port", "6783", "--http-addr", "127.0.0.1:6784"]);
    command.args(["--status-addr", "127.0.0.1:6782"]);
    command.arg("--db-prefix").arg(directory.join("db/w"));
    command.args(["--name", &peer_name(number), "--nickname", &host]);
    command.args(network.shape.dials(number));
    command.env("CHECKPOINT_DISABLE", "1");
    if network.contestant.is_encrypted() {
        command.env("WEAVE_PASSWORD", PASSWORD);
    }
    let mut pinned = network.pinned(number, &command);
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
fn plug_by_hand(network: &Network<'_>, number: usize) -> Outcome<()> {
    let (stage, host) = (network.stage, network.host(number));
    let container = network.container(number);
    let far = stage.full(&container);
    let veth = [
        "link", "add", "ctr", "mtu", "65535", "type", "veth", "peer", "name", "ethwe",
    ];
    stage.ip(
        &host,
        &[&veth[..], &["mtu", "65535", "netns", &far]].concat(),
    )?;
    run(stage
        .command(&container, "ethtool")
        .args(["-K", "ethwe", "tx", "off"]))?;
    stage.ip(&host, &["link", "set", "ctr", "master", "weave", "up"])?;
    let address = format!("{}/24", container_address(number));
    stage.ip(&container, &["addr", "add", &address, "dev", "ethwe"])?;
    stage.ip(&container, &["link", "set", "ethwe", "up"])
}
