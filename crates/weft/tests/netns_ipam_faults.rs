//! Kernel tests of what address allocation survives: daemons killed at any moment, a full disk, a
//! read-only one, and a damaged database.
//!
//! The invariant is always the same: an address that was acknowledged belongs to whom it was given to,
//! and to nobody else, until it is given back.

mod lab;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Output;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::Lab;
use lab::host::Host;
use lab::namespace::{Namespace, run, signal, text};
use lab::patience::wait_for;
use lab::ring::{Member, Ring, Said, request};
use rustix::process::Signal;

const RANGE: &str = "10.40.0.0/16";
/// Allocations of the test with the killer, all peers together.
const ALLOCATIONS: usize = 10_000;
/// Clients of each peer in that test.
const CLIENTS: usize = 8;
/// Between two kills.
const KILL_PAUSE: Duration = Duration::from_millis(250);

/// Asks until it gets an address, through restarts of the daemon; the ident is its own.
fn insist(ident: &str) -> String {
    wait_for(&format!("an address for {ident}"), || {
        let said = request("POST", &format!("/ip/{ident}?wait=true"))?;
        match said.status {
            200 if said.body.contains('/') => Ok(said.body),
            _ => Err(format!("{said:?}")),
        }
    })
}

/// All clients of one peer; who got what.
fn ask_for_many(space: &Namespace, member: usize, each: usize) -> Vec<(String, String)> {
    space.within(|| {
        std::thread::scope(|scope| {
            let client = move |number: usize| {
                let one = |index: usize| {
                    let ident = format!("c{member}-{number}-{index}");
                    let address = insist(&ident);
                    (ident, address)
                };
                (0..each).map(one).collect::<Vec<_>>()
            };
            let running: Vec<_> = (0..CLIENTS)
                .map(|number| scope.spawn(move || client(number)))
                .collect();
            let given = running.into_iter().map(|thread| thread.join());
            given.flat_map(|given| given.expect("no panic")).collect()
        })
    })
}

/// What runs on a host besides its daemon: who starts it again.
fn parents(host: &Host) -> Vec<i32> {
    let daemon = host.daemon_pid();
    let all = host.processes().into_iter().map(|(pid, _)| pid);
    all.filter(|pid| Some(*pid) != daemon).collect()
}

/// Who holds what by the word of a daemon.
fn holdings(member: &Member) -> BTreeMap<String, String> {
    let body = wait_for("the list of addresses", || {
        let said = member.ask("GET", "/ip")?;
        if said.status == 200 {
            Ok(said.body)
        } else {
            Err(format!("{said:?}"))
        }
    });
    let json: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let owned = json["owned"].as_array().cloned().unwrap_or_default();
    let pair = |entry: &serde_json::Value| {
        let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        (word(&entry["containerid"]), word(&entry["addrs"][0]))
    };
    owned.iter().map(pair).collect()
}

#[test]
fn daemons_killed_during_ten_thousand_allocations_lose_none_and_give_none_out_twice() {
    let Some(ring) = Ring::start("WWW", RANGE, &["consensus=3"; 3]) else {
        return;
    };
    ring.members[0].allocate("first");
    let each = ALLOCATIONS / ring.members.len() / CLIENTS + 1;
    let spaces: Vec<&Namespace> = ring.members.iter().map(|m| &m.host().namespace).collect();
    let parents: Vec<Vec<i32>> = ring.members.iter().map(|m| parents(m.host())).collect();
    let done = AtomicBool::new(false);
    let (mut turns, mut kills) = (0, 0);
    let given: Vec<Vec<(String, String)>> = std::thread::scope(|scope| {
        let running: Vec<_> = spaces
            .iter()
            .enumerate()
            .map(|(number, &space)| scope.spawn(move || ask_for_many(space, number, each)))
            .collect();
        let done = &done;
        let waiter = scope.spawn(move || {
            let given: Vec<_> = running.into_iter().map(|thread| thread.join()).collect();
            done.store(true, Ordering::Release);
            given
        });
        while !done.load(Ordering::Acquire) {
            std::thread::sleep(KILL_PAUSE);
            let member = turns % ring.members.len();
            turns += 1;
            // Now and then it is not up again yet, and only its parent runs.
            let running = ring.members[member].host().daemon_pid();
            if let Some(daemon) = running.filter(|pid| !parents[member].contains(pid)) {
                signal(daemon, Signal::KILL);
                kills += 1;
            }
        }
        let given = waiter.join().expect("no panic");
        given
            .into_iter()
            .map(|given| given.expect("no panic"))
            .collect()
    });
    assert!(kills > 2, "the daemons were killed {kills} times only");
    lab::say(&format!("{ALLOCATIONS} allocations, {kills} kills\n"));
    let mut owners = BTreeMap::new();
    for (member, given) in ring.members.iter().zip(&given) {
        let holdings = holdings(member);
        for (ident, address) in given {
            assert_eq!(
                holdings.get(ident),
                Some(address),
                "{ident} after {kills} kills"
            );
            if let Some(other) = owners.insert(address, ident) {
                panic!("{address} was given to {other} and to {ident}");
            }
        }
    }
    ring.wait_connected();
    ring.wait_agreed();
    ring.assert_healthy();
}

/// A host whose state directory is a small file system that only its daemon sees.
struct Cramped {
    host: Rc<Host>,
    state: PathBuf,
    // Dropped last: it ends what runs on its hosts.
    _lab: Lab,
}

impl Cramped {
    fn launched() -> Option<Self> {
        let lab = Lab::plain()?;
        let host = lab.host("a");
        let state = host.path("state");
        let script = format!(
            "mount -t tmpfs -o size=4m,mode=0700 tmpfs {} && exec {} launch --name ::1 \
             --ipalloc-range {RANGE} --ipalloc-init consensus=1",
            state.display(),
            env!("CARGO_BIN_EXE_weft")
        );
        let mut command = host.command();
        let mut inside = host.namespace.command("unshare");
        inside.args(["--mount", "sh", "-c", &script]);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        drop(std::mem::replace(&mut command, inside));
        let launched = run(&mut command);
        assert!(launched.status.success(), "{launched:?}{}", host.story());
        Some(Self {
            host,
            state,
            _lab: lab,
        })
    }

    fn ask(&self, method: &str, path: &str) -> Result<Said, String> {
        self.host.namespace.within(|| request(method, path))
    }

    fn insist(&self, ident: &str) -> String {
        self.host.namespace.within(|| insist(ident))
    }

    /// Runs a program that sees the daemon's files.
    fn beside(&self, program: &str, arguments: &[&str]) -> Output {
        let pid = wait_for("a process of ours", || {
            self.host
                .processes()
                .first()
                .map(|(pid, _)| *pid)
                .ok_or_else(String::new)
        });
        let pid = pid.to_string();
        let mut command = std::process::Command::new("nsenter");
        command
            .args(["--mount", "--target", &pid, program])
            .args(arguments);
        run(&mut command)
    }

    /// Everything the daemon said.
    fn log(&self) -> String {
        self.host.story()
    }

    /// Asks until a request is refused; what was given before, and the refusal.
    fn until_refused(&self) -> (BTreeMap<String, String>, String) {
        let mut given = BTreeMap::new();
        for number in 0..100_000 {
            let ident = format!("c{number}");
            match self.ask("POST", &format!("/ip/{ident}")) {
                Ok(said) if said.status == 200 => {
                    given.insert(ident, said.body);
                }
                Ok(said) => return (given, format!("{said:?}")),
                Err(error) => return (given, error),
            }
        }
        panic!("nothing was refused");
    }

    /// What was given out before is held still, and a new one is none of them.
    fn assert_recovered(&self, given: &BTreeMap<String, String>) {
        for (ident, address) in given {
            assert_eq!(self.insist(ident), *address, "{ident}");
        }
        let new = self.insist("new");
        assert!(!given.values().any(|old| *old == new), "{new} twice");
    }
}

#[test]
fn a_full_disk_refuses_requests_and_loses_nothing() {
    let Some(cramped) = Cramped::launched() else {
        return;
    };
    cramped.insist("first");
    let fill = cramped.state.join("fill");
    let fill = fill.to_str().expect("UTF-8");
    // Ends when there is no room left.
    cramped.beside("dd", &["if=/dev/zero", &format!("of={fill}"), "bs=4096"]);
    let (given, refusal) = cramped.until_refused();
    assert!(!refusal.contains("panic"), "{refusal}");
    let log = wait_for("the reason in the log", || {
        let log = cramped.log();
        if log.contains("No space left") {
            Ok(log)
        } else {
            Err(log)
        }
    });
    assert!(log.contains("weft.redb"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    assert!(cramped.beside("rm", &[fill]).status.success());
    cramped.assert_recovered(&given);
}

#[test]
fn a_disk_that_became_read_only_refuses_requests_and_loses_nothing() {
    let Some(cramped) = Cramped::launched() else {
        return;
    };
    let given = BTreeMap::from([("c0".to_owned(), cramped.insist("c0"))]);
    let state = cramped.state.to_str().expect("UTF-8").to_owned();
    // Files open for writing keep a file system writable; the mount itself can be read-only.
    let remount = |how: &str| {
        let output = cramped.beside("mount", &["-o", how, &state]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    // Its parent is kept from starting another until nobody has a file open.
    let parents = parents(&cramped.host);
    parents.iter().for_each(|pid| signal(*pid, Signal::STOP));
    cramped.host.kill_daemon();
    wait_for("the mount to be idle", || {
        let output = cramped.beside("mount", &["-o", "remount,bind,ro", &state]);
        if output.status.success() {
            Ok(())
        } else {
            Err(text(&output.stderr))
        }
    });
    parents.iter().for_each(|pid| signal(*pid, Signal::CONT));
    let log = wait_for("the reason in the log", || {
        let log = cramped.log();
        if log.contains("Read-only file system") {
            Ok(log)
        } else {
            Err(log)
        }
    });
    assert!(!log.contains("panicked"), "{log}");
    remount("remount,bind,rw");
    cramped.assert_recovered(&given);
}

#[test]
fn a_damaged_database_is_named_with_advice_and_never_read_as_an_empty_ring() {
    let Some(lab) = Lab::plain() else { return };
    let host = lab.host("a");
    let arguments = ["--ipalloc-range", RANGE, "--ipalloc-init", "consensus=1"];
    host.launch(&arguments);
    for number in 0..200 {
        host.namespace.within(|| insist(&format!("c{number}")));
    }
    host.weft(&["stop"]).ok();
    let file = host.path("state").join("weft.redb");
    let whole = std::fs::read(&file).expect("state");
    let garbage = |at: usize, length: usize| {
        let mut bytes = whole.clone();
        let end = (at + length).min(bytes.len());
        bytes[at..end].fill(0xa5);
        bytes
    };
    let cut = whole[..whole.len() / 2].to_vec();
    for damaged in [garbage(0, 512), cut, garbage(0, whole.len())] {
        std::fs::write(&file, damaged).expect("written");
        let answer = host.try_launch(&arguments);
        assert_ne!(answer.code, 0, "{answer:?}");
        assert!(answer.err.contains("weft.redb"), "{answer:?}");
        assert!(answer.err.contains("reset"), "{answer:?}");
        assert!(!answer.err.contains("panicked"), "{answer:?}");
    }
    // Damage inside may go unseen until it is read, but nothing may come up short.
    for at in (4096..whole.len()).step_by(whole.len() / 16) {
        std::fs::write(&file, garbage(at, 4096)).expect("written");
        let answer = host.try_launch(&arguments);
        assert!(!answer.err.contains("panicked"), "{answer:?}");
        if answer.code == 0 {
            let held = host.namespace.within(|| request("GET", "/ip/c7"));
            assert_eq!(
                held.expect("an answer").body,
                "10.40.0.8/16",
                "damage at {at}"
            );
            host.weft(&["stop"]).ok();
        }
    }
    std::fs::write(&file, whole).expect("written");
    host.launch(&arguments);
    assert_eq!(host.namespace.within(|| insist("c7")), "10.40.0.8/16");
}
