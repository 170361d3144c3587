//! Start-up and shutdown of a daemon.
//!
//! What can fail without touching the host comes first, so that a launch that cannot work leaves
//! nothing behind: state, peers, sockets; then name, bridge, data plane, links.

use std::convert::Infallible;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ipam::{Ipam, IpamConfig};
use linux::bridge::BridgeConfig;
use linux::netns::Netns;
use linux::peer_name::{MachineIdentity, PeerNameSources};
use mesh::{DirectPeer, MeshConfig};
use node::{Connect, Node};
use overlay::capabilities::Capability;
use plane::Plane;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use wire::PeerName;
use wire::ethernet::MacAddr;

use crate::advice;
use crate::config::{Config, HostOptions, IpamOptions, MeshOptions};
use crate::docker::Docker;
use crate::driver::{DIRECT_PEERS, Driver, Handle, HostPlane};
use crate::host::{Host, HostConfig, HostHandle};
use crate::http::{self, App, listen};
use crate::links::{self, Links};
use crate::reset::BRIDGE;
use crate::store::{self, Lock, Store};
use crate::task::{End, Task, Tasks, wait_to_be_stopped};
use crate::{clock, resolve};

/// Name of the record with the peer name.
const PEER_NAME: &str = "peer_name";
/// Prefix of the names of the records of address allocation.
const IPAM_ROWS: &str = "ipam/";
/// File in the run directory that exists while a launch has not been stopped: a daemon that finds
/// it was restarted after a crash.
const LAUNCHED: &str = "launched";
/// How often bridge ports and firewall are looked at (spec/cli-api.md 9).
const HOST_PERIOD: Duration = Duration::from_secs(10);

/// How long a daemon that ends by itself stays to answer those who wait.
const LAST_ANSWERS: Duration = Duration::from_millis(200);
/// How often remembered peers are looked up that did not resolve.
const RESOLVE_PERIOD: Duration = Duration::from_secs(30);

/// Removes what makes the next start count as a restart.
pub fn forget_launch(run_dir: &Path) {
    // Nothing to forget is the normal case.
    let _ = std::fs::remove_file(run_dir.join(LAUNCHED));
}

/// Runs a daemon until it is told to end. Blocks.
pub fn run(config: Config) -> anyhow::Result<()> {
    take_all_descriptors();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let result = runtime.block_on(serve(config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Every peer, stranger and client takes a descriptor; the usual soft limit is for programs that use
/// `select`.
fn take_all_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "limit of open files stays as it is");
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    tracing::info!(options = config.shown_options, "command line options");
    tracing::info!("weave  {}", env!("CARGO_PKG_VERSION"));
    let signals = Signals::watch()?;
    let tasks = Tasks::default();
    let Config {
        mesh,
        host,
        http,
        ipam,
        ..
    } = config;

    let _lock = Lock::take(&host.state_dir)?;
    store::create_directory(&host.run_dir)?;
    let store = Arc::new(Store::open(&host.state_dir)?);
    let peers = InitialPeers::find(&mesh, &host, &store).await?;
    let docker = host
        .docker_address
        .as_deref()
        .map(|address| Docker::new(address, tasks.clone()))
        .transpose()?;
    let control_port = http.control.as_deref().map_or(0, port_of);
    let sockets = Sockets::bind(&mesh, &host, &http).await?;

    let HostSide {
        node,
        plane,
        host: host_handle,
    } = bring_up(&mesh, &host, ipam.as_ref(), control_port, &store, &tasks)?;
    let counted = Arc::clone(&plane.plane);
    let links = Links::new(mesh.listen, tasks.clone());
    let link_events = links.0.events();
    let (driver, handle) = Driver::new(node, links, Box::new(plane), store.clone());
    let _driver = tasks.keep("driver", driver.run());
    let _accept = links::accept(sockets.mesh, link_events, &tasks);
    let _names = peers.connect(handle.clone(), &store, &tasks).await?;

    let app = Arc::new(App::new(
        handle,
        host_handle.clone(),
        counted,
        docker,
        mesh.port,
        &tasks,
    ));
    let _containers = app.watch_containers(&tasks).await;
    let _servers: Vec<Task> = sockets
        .http
        .into_iter()
        .map(|(listener, scope)| {
            let router = scope.router(app.clone());
            listen::serve(&tasks, scope.server(), listener, router)
        })
        .collect();
    let _host = watch_host(host_handle, &tasks);
    std::fs::write(host.run_dir.join(LAUNCHED), "").context("marking the launch")?;
    app.set_ready();
    notify("READY=1");

    signals.until_stopped(&tasks).await?;
    notify("STOPPING=1");
    forget_launch(&host.run_dir);
    Ok(())
}

/// What the operator can tell a running daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Signals {
    fn watch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Waits until the daemon is told to stop. An error if something essential ends before.
    async fn until_stopped(mut self, tasks: &Tasks) -> Result<(), End> {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break tracing::info!("stopping on SIGTERM"),
                _ = self.interrupt.recv() => break tracing::info!("stopping on SIGINT"),
                _ = self.quit.recv() => dump_threads(),
                end = tasks.first_end() => {
                    // Whoever waits for an answer is being told why there is none.
                    tokio::time::sleep(LAST_ANSWERS).await;
                    return Err(end);
                }
            }
        }
        Ok(())
    }
}

/// Logs what each thread is doing, as SIGQUIT asks for.
fn dump_threads() {
    for thread in std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let read = |name: &str| {
            let text = std::fs::read_to_string(thread.path().join(name)).unwrap_or_default();
            text.trim().to_owned()
        };
        tracing::info!(name = read("comm"), waits_in = read("wchan"), "thread");
    }
}

/// What a daemon drives on its host.
struct HostSide {
    node: Node,
    plane: HostPlane,
    host: HostHandle,
}

/// Name, bridge, data plane, attachments, firewall. A bridge that was made is removed if a later
/// step fails.
fn bring_up(
    mesh: &MeshOptions,
    host: &HostOptions,
    ipam: Option<&IpamOptions>,
    control_port: u16,
    store: &Arc<Store>,
    tasks: &Tasks,
) -> anyhow::Result<HostSide> {
    let name = peer_name(mesh, host, Some(store))?;
    store.put(PEER_NAME, &name.to_string())?;
    tracing::info!(%name, nickname = mesh.nickname, "our name");
    let mut node_config = node_config(mesh, name);
    node_config.ipam = ipam
        .map(|options| restore_ipam(options, name, &mesh.nickname, store))
        .transpose()?;
    let created = ensure_bridge(host, name)?;
    let undo = UndoBridge {
        bridge: host.bridge.clone(),
        armed: created,
    };
    let node = Node::new(node_config, seed()?, clock::now());
    let plane_config = plane::Config {
        bridge_mtu_bytes: bridge_mtu_bytes(&host.bridge)?,
        listen: mesh.listen,
        port: mesh.port,
        name,
    };
    let (plane, events) = Plane::start(plane_config).context("starting the data plane")?;
    let host_config = HostConfig {
        bridge: host.bridge.clone(),
        ports: plane.ports(),
        docker_bridge: host.docker_bridge.clone(),
        control_port,
        router_port: mesh.port,
    };
    let plane = HostPlane {
        plane: Arc::new(plane),
        events,
    };
    let host_handle = HostHandle::start(Host::new(host_config, store.clone())?, tasks)?;
    store.put(BRIDGE, &host.bridge)?;
    undo.disarm();
    Ok(HostSide {
        node,
        plane,
        host: host_handle,
    })
}

/// What a listener serves.
#[derive(Debug, Clone, Copy)]
enum Scope {
    Control,
    Status,
    Metrics,
}

impl Scope {
    /// Name of the task that serves it.
    const fn server(self) -> &'static str {
        match self {
            Self::Control => "HTTP control",
            Self::Status => "HTTP status",
            Self::Metrics => "HTTP metrics",
        }
    }

    fn router(self, app: Arc<App>) -> axum::Router {
        match self {
            Self::Control => http::control(app),
            Self::Status => http::status_only(app),
            Self::Metrics => http::metrics_only(app),
        }
    }
}

/// All listening sockets, bound before anything on the host is changed.
struct Sockets {
    mesh: Vec<tokio::net::TcpListener>,
    http: Vec<(listen::Listener, Scope)>,
}

impl Sockets {
    async fn bind(
        mesh: &MeshOptions,
        host: &HostOptions,
        options: &crate::config::HttpOptions,
    ) -> anyhow::Result<Self> {
        let listeners = links::listen(mesh.listen, mesh.port)
            .with_context(|| format!("unable to listen for peers on port {}", mesh.port))?;
        let mut http = Vec::new();
        let socket = host.run_dir.join(api::SOCKET_NAME);
        let socket = socket
            .to_str()
            .context("the run directory's name is not text")?
            .to_owned();
        for (address, scope, what) in [
            (Some(socket.as_str()), Scope::Control, "control"),
            (options.control.as_deref(), Scope::Control, "control"),
            (options.status.as_deref(), Scope::Status, "status"),
            (options.metrics.as_deref(), Scope::Metrics, "metrics"),
        ] {
            let Some(address) = address else { continue };
            let listener = listen::bind(address).await.with_context(|| {
                format!("unable to listen for HTTP {what} requests on {address}")
            })?;
            match scope {
                Scope::Control => tracing::info!(address, "listening for HTTP control messages"),
                Scope::Status | Scope::Metrics => {
                    tracing::info!("Listening for HTTP {what} messages on {address}");
                }
            }
            http.push((listener, scope));
        }
        Ok(Self {
            mesh: listeners,
            http,
        })
    }
}

fn port_of(address: &str) -> u16 {
    address
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
        .unwrap_or(0)
}

/// The peers to start with.
struct InitialPeers {
    resolved: Vec<DirectPeer>,
    /// Remembered names that do not resolve at the moment.
    unresolved: Vec<String>,
    /// All of them, as typed.
    texts: Vec<String>,
}

impl InitialPeers {
    /// Given ones at a launch, where each must resolve; remembered ones at a restart.
    async fn find(mesh: &MeshOptions, host: &HostOptions, store: &Store) -> anyhow::Result<Self> {
        if mesh.resume && !mesh.peers.is_empty() {
            bail!("You must not specify an initial peer list in conjunction with --resume");
        }
        let resumes = mesh.resume || host.run_dir.join(LAUNCHED).exists();
        let texts = if resumes {
            let remembered: Vec<String> = store.get(DIRECT_PEERS)?.unwrap_or_default();
            let list = remembered.join(" ");
            tracing::info!("Restart/resume detected - using persisted peer list: [{list}]");
            remembered
        } else {
            let list = mesh.peers.join(" ");
            tracing::info!("Launch detected - using supplied peer list: [{list}]");
            mesh.peers.clone()
        };
        let (resolved, errors) = resolve::resolve_all(&texts).await;
        if !resumes && !errors.is_empty() {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            bail!("{}", lines.join("\n"));
        }
        // A name that does not resolve at the moment must not keep a restarted daemon down.
        for error in errors {
            tracing::warn!(%error, "remembered peer not usable, trying again later");
        }
        let known = |text: &String| resolved.iter().any(|peer| peer.text == *text);
        let unresolved = texts.iter().filter(|text| !known(text)).cloned().collect();
        Ok(Self {
            resolved,
            unresolved,
            texts,
        })
    }

    /// Connects. The task tries names that did not resolve until they do.
    async fn connect(
        self,
        handle: Handle,
        store: &Store,
        tasks: &Tasks,
    ) -> anyhow::Result<Option<Task>> {
        let Self {
            resolved: peers,
            mut unresolved,
            texts,
        } = self;
        handle
            .ask(Connect {
                peers,
                replace: true,
            })
            .await?;
        if unresolved.is_empty() {
            return Ok(None);
        }
        // The node forgot what it was not told; the next start should not.
        store.put(DIRECT_PEERS, &texts)?;
        Ok(Some(tasks.spawn("peer names", async move {
            while !unresolved.is_empty() {
                tokio::time::sleep(RESOLVE_PERIOD).await;
                let (peers, _) = resolve::resolve_all(&unresolved).await;
                unresolved.retain(|text| !peers.iter().any(|peer| peer.text == *text));
                let connect = Connect {
                    peers,
                    replace: false,
                };
                if handle.ask(connect).await.is_err() {
                    return;
                }
            }
        })))
    }
}

/// The name a daemon of this configuration would take; changes nothing.
pub fn derive_name(config: &Config) -> anyhow::Result<PeerName> {
    let store = match crate::reset::has_state(&config.host.state_dir) {
        true => Some(Store::open(&config.host.state_dir)?),
        false => None,
    };
    peer_name(&config.mesh, &config.host, store.as_ref())
}

/// Our name (spec/cli-api.md 8). A daemon in a network namespace of its own is a host of its own:
/// the machine's identity would give all of them one name, so theirs is random and remembered.
fn peer_name(
    mesh: &MeshOptions,
    host: &HostOptions,
    store: Option<&Store>,
) -> anyhow::Result<PeerName> {
    let persisted = store
        .map(|store| store.get::<String>(PEER_NAME))
        .transpose()?
        .flatten()
        .and_then(|text| text.parse::<PeerName>().ok())
        .map(|name| MacAddr(name.to_bytes()));
    let bridge = linux::bridge::bridge_state(&host.bridge)?.and_then(|state| state.link.mac);
    let mut random = [0; 6];
    getrandom(&mut random)?;
    let shares_machine = is_first_namespace();
    let (identity, random) = if shares_machine {
        (MachineIdentity::read(&host.host_root)?, random)
    } else {
        (
            MachineIdentity::default(),
            persisted.map_or(random, |mac| mac.0),
        )
    };
    let given = mesh.name.map(|name| MacAddr(name.to_bytes()));
    let sources = PeerNameSources {
        given,
        bridge,
        persisted,
        identity,
        random,
    };
    Ok(PeerName::from_bytes(sources.choose()?.0))
}

/// Whether our network namespace is the machine's first. Where the first process hides its own, a
/// setting tells that the kernel has there only.
fn is_first_namespace() -> bool {
    match (Netns::current(), Netns::of_process(1)) {
        (Ok(own), Ok(first)) => own.identity() == first.identity(),
        _ => Path::new("/proc/sys/net/core/dev_weight").exists(),
    }
}

fn ensure_bridge(host: &HostOptions, name: PeerName) -> anyhow::Result<bool> {
    let config = BridgeConfig {
        name: host.bridge.clone(),
        mac: MacAddr(name.to_bytes()),
        mtu_bytes: host.mtu_bytes,
    };
    let created = linux::bridge::ensure_bridge(&config)
        .with_context(|| format!("setting up bridge {}", host.bridge))?;
    tracing::info!("Bridge type is bridge");
    Ok(created)
}

/// Largest IP packet the bridge takes.
fn bridge_mtu_bytes(bridge: &str) -> anyhow::Result<usize> {
    let state = linux::bridge::bridge_state(bridge)?;
    let mtu_bytes = state.and_then(|state| usize::try_from(state.link.mtu_bytes).ok());
    Ok(mtu_bytes.unwrap_or(usize::MAX))
}

/// Removes a bridge we made if start-up fails behind it.
struct UndoBridge {
    bridge: String,
    armed: bool,
}

impl UndoBridge {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for UndoBridge {
    fn drop(&mut self) {
        if self.armed {
            let removed = linux::netlink::Netlink::open()
                .and_then(|mut netlink| netlink.delete_link_named(&self.bridge));
            if let Err(error) = removed {
                tracing::warn!(bridge = self.bridge, %error, "bridge not removed");
            }
        }
    }
}

fn node_config(mesh: &MeshOptions, name: PeerName) -> node::Config {
    let mut config = MeshConfig::new(name, mesh.nickname.clone());
    config.password = mesh.password.clone();
    config.port = mesh.port;
    config.min_protocol_version = mesh.min_protocol_version;
    config.max_protocol_version = mesh.max_protocol_version;
    config.trusted_subnets = mesh.trusted_subnets.clone();
    config.conn_limit = mesh.conn_limit;
    config.discovery = mesh.discovery;
    if mesh.password.is_some() {
        tracing::info!("Communication between peers via untrusted networks is encrypted.");
    } else {
        tracing::info!("Communication between peers is unencrypted.");
    }
    let mut config = node::Config::new(config);
    let offered = mesh.sleeve_cipher.offers_aes_gcm();
    let offered = offered.then_some(Capability::AesGcm).into_iter();
    config.capabilities = offered.collect();
    config
}

/// The allocator as the last run left it. Damaged rows are an error: a ring that was silently empty
/// would give out addresses that are in use.
fn restore_ipam(
    options: &IpamOptions,
    name: PeerName,
    nickname: &str,
    store: &Store,
) -> anyhow::Result<Ipam> {
    let mut uid = [0; 8];
    getrandom(&mut uid)?;
    let config = IpamConfig {
        name,
        nickname: nickname.to_owned(),
        uid: u64::from_le_bytes(uid).max(1),
        universe: options.universe,
        default_subnet: options.default_subnet,
        init: options.init.clone(),
        reclaim_after: options.reclaim_after,
    };
    let rows = store.rows(IPAM_ROWS)?;
    Ipam::new(config, rows, seed()?, clock::now())
        .map_err(|error| anyhow::anyhow!(advice::damaged(&error)))
}

fn seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom(&mut seed)?;
    Ok(seed)
}

/// Random bytes of the system.
fn getrandom(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut bytes[filled..], flags)?;
    }
    Ok(())
}

/// Looks after what others on this host may change.
fn watch_host(host: HostHandle, tasks: &Tasks) -> Task {
    tasks.keep("host watch", async move {
        let mut period = tokio::time::interval(HOST_PERIOD);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        period.tick().await;
        loop {
            period.tick().await;
            let check = |host: &mut Host| {
                host.check_ports();
                host.check_firewall();
                Ok(())
            };
            if host.call(check).await.is_err() {
                return wait_to_be_stopped::<Result<(), Infallible>>().await;
            }
        }
    })
}

/// Tells the service manager, or our own supervisor, how we are (sd_notify(3)).
fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let send = || -> io::Result<()> {
        let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => UnixAddress::from_abstract_name(name)?,
            None => UnixAddress::from_pathname(&path)?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
        Ok(())
    };
    if let Err(error) = send() {
        tracing::warn!(%error, "service manager not told");
    }
}
