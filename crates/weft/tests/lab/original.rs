//! The original router as a peer, for the interop tests: started as its users start it, asked over
//! its own HTTP interface, and its log read for complaints.
//!
//! Where it is, `WEFT_PEER_WEAVER` says. Nothing of it is part of this project.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::rc::Rc;

use rustix::process::Signal;

use super::host::Host;
use super::namespace::{Namespace, is_installed, signal, text};
use super::patience::{LONG, wait_for, wait_until};
use super::skip;

/// Environment variable with the path of the original's router.
const PATH_VARIABLE: &str = "WEFT_PEER_WEAVER";
/// Its control and status interface.
const HTTP_ADDRESS: &str = "127.0.0.1:6784";
/// Largest packet of a container on its bridge, bytes.
const CONTAINER_MTU_BYTES: &str = "65535";
/// Programs it runs, and those that put it and its containers in their place.
const NEEDED: [&str; 4] = ["iptables", "ethtool", "unshare", "nice"];

/// Words that make a line of its log a complaint.
const COMPLAINTS: [&str; 14] = [
    "ERRO",
    "WARN",
    "FATA",
    "error",
    "Error",
    "Failed",
    "failed",
    "gnoring",
    "Unable",
    "Cannot",
    "unknown",
    "panic",
    "goroutine",
    "collision",
];

/// Complaints that originals cause among themselves, by a part of the line.
const HARMLESS: [&str; 1] = [
    // It looks for the ipset program at every start, and does without.
    "disabling comment support",
];

/// What originals say about each other while peers come and go: frames can be faster than the news
/// that makes a route.
const HARMLESS_UNSETTLED: [&str; 3] = [
    "Received packet for unknown destination",
    "Unable to find connection to relay peer",
    "awaiting contact",
];

/// An original router on a host of the lab.
pub(crate) struct Original {
    host: Rc<Host>,
    binary: PathBuf,
    number: usize,
    password: Option<String>,
    process: RefCell<Option<Child>>,
    /// Lines of its log when the network was last seen to be whole.
    settled_lines: Cell<usize>,
}

/// The path of the original, or `None`, loudly.
pub(crate) fn find_original() -> Option<PathBuf> {
    let Some(path) = std::env::var_os(PATH_VARIABLE).map(PathBuf::from) else {
        skip(&format!(
            "needs {PATH_VARIABLE}, the path of an original router"
        ));
        return None;
    };
    assert!(
        path.is_file(),
        "{PATH_VARIABLE} is not a file: {}",
        path.display()
    );
    if let Some(missing) = NEEDED.into_iter().find(|name| !is_installed(name)) {
        skip(&format!("needs the program {missing}"));
        return None;
    }
    Some(path)
}

impl Original {
    /// A router that does not run yet. `number` becomes its peer name.
    pub(crate) fn new(
        host: Rc<Host>,
        binary: PathBuf,
        number: usize,
        password: Option<String>,
    ) -> Self {
        let process = RefCell::new(None);
        Self {
            host,
            binary,
            number,
            password,
            process,
            settled_lines: Cell::new(0),
        }
    }

    pub(crate) fn host(&self) -> &Rc<Host> {
        &self.host
    }

    /// Starts it and waits until it answers.
    pub(crate) fn launch(&self, arguments: &[&str]) {
        let directory = self.host.path("original");
        std::fs::create_dir_all(&directory).expect("the lab's directory is writable");
        // Left by a run before, it makes the router use the peers of that run.
        let _ = std::fs::remove_file(directory.join("restart.sentinel"));
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("the lab's directory is writable");
        let mut command = self.host.namespace.command("nice");
        command
            // It takes process 1 for the host's first, so it gets to be that itself.
            .args([
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .arg(&self.binary)
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
                HTTP_ADDRESS,
                "--status-addr",
                "127.0.0.1:6782",
            ])
            .arg("--db-prefix")
            .arg(directory.join("db"))
            .args([
                "--name",
                &peer_name(self.number),
                "--nickname",
                self.host.name(),
            ])
            .args(arguments)
            .current_dir(&directory)
            .env("CHECKPOINT_DISABLE", "1")
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_BRIDGE")
            .env(
                "WEAVE_PASSWORD",
                self.password.as_deref().unwrap_or_default(),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log);
        *self.process.borrow_mut() = Some(command.spawn().expect("the original starts"));
        wait_for(
            &format!("the original on {} to answer", self.host.name()),
            || {
                assert!(self.is_running(), "the original ended:\n{}", self.log());
                self.get("/status").map(drop)
            },
        );
    }

    /// Ends it the polite way.
    pub(crate) fn stop(&self) {
        let mut process = self.process.borrow_mut();
        let child = process.as_mut().expect("it runs");
        for pid in self.host.namespace.pids() {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if command.starts_with(self.binary.as_os_str().as_encoded_bytes()) {
                signal(pid, Signal::TERM);
            }
        }
        wait_until("the original to end", || {
            !matches!(child.try_wait(), Ok(None))
        });
        *process = None;
    }

    /// Whether it was started and has not ended.
    pub(crate) fn is_running(&self) -> bool {
        let mut process = self.process.borrow_mut();
        process
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// A page of its HTTP interface.
    fn get(&self, path: &str) -> Result<String, String> {
        self.host.namespace.within(|| {
            let request = format!("GET {path} HTTP/1.0\r\nHost: {HTTP_ADDRESS}\r\n\r\n");
            let mut answer = Vec::new();
            let exchange = || -> std::io::Result<()> {
                let mut stream = TcpStream::connect(HTTP_ADDRESS)?;
                stream.set_read_timeout(Some(LONG))?;
                stream.write_all(request.as_bytes())?;
                stream.read_to_end(&mut answer).map(drop)
            };
            let mut exchange = exchange;
            exchange().map_err(|error| error.to_string())?;
            let answer = text(&answer);
            let (head, body) = answer.split_once("\r\n\r\n").ok_or("no body")?;
            let is_good = head.split(' ').nth(1) == Some("200");
            if is_good {
                Ok(body.to_owned())
            } else {
                Err(answer)
            }
        })
    }

    /// `status <what>` as its command line would show it.
    pub(crate) fn status(&self, what: &str) -> String {
        self.get(&format!("/status/{what}"))
            .unwrap_or_else(|error| error)
    }

    /// A container on its bridge, plugged by hand.
    pub(crate) fn plug(&self, namespace: &Namespace, address: &str) {
        let port = format!("port{}", namespace.name().len());
        let mtu = ["mtu", CONTAINER_MTU_BYTES];
        let veth = ["type", "veth", "peer", "name", "ethwe"];
        let place = ["netns", namespace.name()];
        self.host
            .namespace
            .ip(&[&["link", "add", &port][..], &mtu, &veth, &mtu, &place].concat());
        namespace.run("ethtool", &["-K", "ethwe", "tx", "off"]);
        self.host
            .namespace
            .ip(&["link", "set", &port, "master", "weave", "up"]);
        namespace.ip(&["addr", "add", address, "brd", "+", "dev", "ethwe"]);
        namespace.ip(&["link", "set", "ethwe", "up"]);
        namespace.ip(&["route", "add", "224.0.0.0/4", "dev", "ethwe"]);
    }

    /// Everything it has said, in all its runs.
    pub(crate) fn log(&self) -> String {
        std::fs::read(self.log_path())
            .map(|bytes| text(&bytes))
            .unwrap_or_default()
    }

    /// All peers know all others: from now on, what only happens while they come and go is not
    /// harmless.
    pub(crate) fn settled(&self) {
        self.settled_lines.set(self.log().lines().count());
    }

    /// Lines of its log that another original would not have caused. `expected` are parts of lines
    /// the test itself provokes.
    pub(crate) fn complaints(&self, expected: &[&str]) -> Vec<String> {
        let is_harmless = |number: usize, line: &str| {
            let is_unsettled = number < self.settled_lines.get();
            let unsettled = HARMLESS_UNSETTLED.iter().filter(|_| is_unsettled);
            let mut parts = HARMLESS.iter().chain(unsettled).chain(expected);
            parts.any(|part| line.contains(part))
        };
        self.log()
            .lines()
            .enumerate()
            .filter(|(_, line)| COMPLAINTS.iter().any(|word| line.contains(word)))
            .filter(|(number, line)| !is_harmless(*number, line))
            .map(|(_, line)| line.to_owned())
            .collect()
    }

    /// A file the lab shows when a test fails.
    fn log_path(&self) -> PathBuf {
        self.host.path("original").join("original.log")
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        if let Some(child) = self.process.borrow_mut().as_mut() {
            // Both fail only when it has ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The peer name of the `number`th peer of a mix.
pub(crate) fn peer_name(number: usize) -> String {
    format!("00:00:00:00:00:{number:02x}")
}
