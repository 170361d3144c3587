//! Several hosts on one machine, for the kernel tests: real namespaces, links, packets and daemons.
//!
//! ```text
//!   host a            host b             every box is a network namespace of its own;
//!   ┌──────────┐      ┌──────────┐       the root namespace is never touched
//!   │ eth0 … N │      │ eth0 … N │
//!   └──┬───────┘      └──┬───────┘
//!   ┌──┴─────────────────┴───────┐       switch: one bridge per underlay network, with
//!   │ bridge net0, net1, …       │       the capture running on all its ports
//!   └────────────────────────────┘
//!   container: a namespace with nothing but `lo`, until `weft attach` gives it `ethwe`
//! ```
//!
//! A lab is made for one test, has names and directories of its own, and removes everything when it
//! is dropped, also after a panic. With a password set it watches the underlay from before the first
//! daemon starts, and fails the test when container bytes are seen there (the plaintext tripwire).
#![allow(dead_code, reason = "each test program uses its own part of the lab")]

pub(crate) mod capture;
pub(crate) mod docker;
pub(crate) mod host;
pub(crate) mod mix;
pub(crate) mod namespace;
pub(crate) mod original;
pub(crate) mod patience;
pub(crate) mod ring;
pub(crate) mod traffic;

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use capture::Capture;
use host::{Container, Host};
use namespace::Namespace;

/// The password of encrypted labs.
pub(crate) const PASSWORD: &str = "correct-horse-battery-staple-42";

/// Programs without which there is no lab.
const NEEDED: [&str; 4] = ["ip", "tcpdump", "ping", "nsenter"];

/// One test's hosts, cables and files.
pub(crate) struct Lab {
    id: String,
    directory: PathBuf,
    switch: Namespace,
    networks: Cell<usize>,
    hosts: RefCell<Vec<Rc<Host>>>,
    capture: Option<Capture>,
    password: Option<String>,
}

/// A cable between a host and an underlay network.
pub(crate) struct Cable<'a> {
    switch: &'a Namespace,
    /// The port of the switch.
    port: String,
}

impl Cable<'_> {
    /// Cuts it: the host keeps its carrierless interface and its address.
    pub(crate) fn cut(&self) {
        self.switch.ip(&["link", "set", &self.port, "down"]);
    }

    pub(crate) fn heal(&self) {
        self.switch.ip(&["link", "set", &self.port, "up"]);
    }
}

impl Lab {
    /// A lab whose daemons get no password; `None`, loudly, where labs cannot be made.
    pub(crate) fn plain() -> Option<Self> {
        Self::new(None)
    }

    /// A lab whose daemons share a password, with the tripwire armed.
    pub(crate) fn encrypted() -> Option<Self> {
        Self::new(Some(PASSWORD.to_owned()))
    }

    fn new(password: Option<String>) -> Option<Self> {
        if let Some(reason) = obstacle() {
            skip(&reason);
            return None;
        }
        let id = namespace::next_id();
        let directory = std::env::temp_dir().join(&id);
        std::fs::create_dir_all(&directory).expect("the temporary directory is writable");
        let switch = Namespace::new(&format!("{id}-sw"));
        let capture = password
            .is_some()
            .then(|| Capture::start(&switch, &directory));
        let hosts = RefCell::new(Vec::new());
        Some(Self {
            id,
            directory,
            switch,
            networks: Cell::new(0),
            hosts,
            capture,
            password,
        })
    }

    /// A host with no cable yet.
    pub(crate) fn host(&self, name: &str) -> Rc<Host> {
        let namespace = Namespace::new(&format!("{}-{name}", self.id));
        let directory = self.directory.join(name);
        let number = self.hosts.borrow().len() + 1;
        let host = Host::new((name, number), namespace, directory, self.password.clone());
        let host = Rc::new(host);
        self.hosts.borrow_mut().push(Rc::clone(&host));
        host
    }

    /// Hosts of these names on one underlay network, 192.168.77.1 and up.
    pub(crate) fn hosts<const N: usize>(&self, names: [&str; N]) -> [Rc<Host>; N] {
        let hosts = names.map(|name| self.host(name));
        self.network("192.168.77", &hosts.each_ref().map(AsRef::as_ref));
        hosts
    }

    /// A line of three: neighbours share a network, the ends cannot reach each other.
    pub(crate) fn line(&self, names: [&str; 3]) -> [Rc<Host>; 3] {
        let hosts = names.map(|name| self.host(name));
        self.network("192.168.81", &[&hosts[0], &hosts[1]]);
        self.network("192.168.82", &[&hosts[1], &hosts[2]]);
        hosts
    }

    /// A ring of four: neighbours share a network, opposite corners cannot reach each other.
    pub(crate) fn square(&self) -> [Rc<Host>; 4] {
        let hosts = ["a", "b", "c", "d"].map(|name| self.host(name));
        for (index, host) in hosts.iter().enumerate() {
            let next = &hosts[(index + 1) % hosts.len()];
            self.network(&format!("192.168.{}", 91 + index), &[host, next]);
        }
        hosts
    }

    /// Joins hosts to a new underlay network; the first gets `PREFIX.1`, and so on. Returns the cables.
    pub(crate) fn network(&self, prefix: &str, hosts: &[&Host]) -> Vec<Cable<'_>> {
        let number = self.networks.replace(self.networks.get() + 1);
        let bridge = format!("net{number}");
        self.switch.ip(&["link", "add", &bridge, "type", "bridge"]);
        self.switch.ip(&["link", "set", &bridge, "up"]);
        let mut cables = Vec::new();
        for (index, host) in hosts.iter().enumerate() {
            let port = format!("p{number}-{}", index + 1);
            let interface = host.next_interface();
            let peer = ["type", "veth", "peer", "name", &interface, "netns"];
            self.switch
                .ip(&[&["link", "add", &port][..], &peer, &[host.namespace.name()]].concat());
            self.switch
                .ip(&["link", "set", &port, "master", &bridge, "up"]);
            let address = if prefix.contains(':') {
                format!("{prefix}{}/64", index + 1)
            } else {
                format!("{prefix}.{}/24", index + 1)
            };
            host.plug(&interface, &address);
            cables.push(Cable {
                switch: &self.switch,
                port,
            });
        }
        cables
    }

    /// Limits the size of packets on every cable laid so far.
    pub(crate) fn limit_underlay(&self, mtu_bytes: usize) {
        let mtu = mtu_bytes.to_string();
        for host in self.hosts.borrow().iter() {
            for interface in host.interfaces() {
                host.namespace.ip(&["link", "set", &interface, "mtu", &mtu]);
            }
        }
        for port in self.switch.interfaces("p") {
            self.switch.ip(&["link", "set", &port, "mtu", &mtu]);
        }
    }

    /// A container on `host`: an empty namespace.
    pub(crate) fn container(&self, host: &Rc<Host>, name: &str) -> Container {
        let namespace = Namespace::new(&format!("{}-{}-{name}", self.id, host.name()));
        Container::new(namespace, Rc::clone(host))
    }

    /// A container on `host` attached with these addresses.
    pub(crate) fn attached(&self, host: &Rc<Host>, name: &str, addresses: &[&str]) -> Container {
        let container = self.container(host, name);
        container.attach(addresses);
        container
    }

    /// Where this lab keeps its files.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts watching the underlay of a lab without a password.
    pub(crate) fn capture(&self) -> Capture {
        Capture::start(&self.switch, &self.directory)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            for host in self.hosts.borrow().iter() {
                say(&host.story());
            }
        }
        let leaked = self.capture.take().map(Capture::marker_count);
        for host in self.hosts.borrow().iter() {
            host.kill_everything();
        }
        if std::env::var_os("WEFT_TEST_KEEP").is_none() {
            // A file in use by a dying process is no reason to fail a test that passed.
            let _ = std::fs::remove_dir_all(&self.directory);
        }
        if let Some(count) = leaked
            && !failed
        {
            assert_eq!(
                count, 0,
                "container bytes were seen in clear on the underlay"
            );
        }
    }
}

/// Says that the running test cannot run here, past the output capture of the test program.
pub(crate) fn skip(reason: &str) {
    let thread = std::thread::current();
    say(&format!(
        "skipped: {}: {reason}\n",
        thread.name().unwrap_or("a test")
    ));
}

/// Writes to the standard error even when the test program captures output.
pub(crate) fn say(text: &str) {
    // Nobody is left to tell when the standard error is gone.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Why no lab can be made here, if so.
fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root to make network namespaces".to_owned());
    }
    if let Some(missing) = NEEDED
        .into_iter()
        .find(|name| !namespace::is_installed(name))
    {
        return Some(format!("needs the program {missing}"));
    }
    namespace::sweep_once();
    let probe = format!("{}-probe", namespace::next_id());
    match Namespace::try_new(&probe) {
        Ok(_) => None,
        Err(error) => Some(format!("cannot make network namespaces: {error}")),
    }
}
