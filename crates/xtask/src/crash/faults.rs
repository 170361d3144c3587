//! The faults of the crash loop, and how long it takes until all is well again.

use std::fmt;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use super::host::{Host, kill};
use super::probe::uptime_secs;
use super::{GUEST, LIMIT, TALKERS, Talk, ping};
use crate::chance::Chance;
use crate::stage::{Outcome, finish_started, run, wait_for};

/// A daemon is starting up for at most so long.
const START_UP: Duration = Duration::from_secs(2);
/// Commands take about so long.
const COMMAND: Duration = Duration::from_millis(60);
/// Containers of one host that say nothing for so long are cut off, seconds.
const SILENT_SECS: f64 = 2.0;
/// An address nobody has.
const NOBODY: &str = "192.168.77.99";

/// Makes faults.
pub(super) struct Faults<'a> {
    hosts: &'a [Host<'a>],
    talk: &'a Talk,
    pub(super) chance: Chance,
    /// Processes ended so far.
    pub(super) kills: usize,
    /// What commands have been given, by host.
    given: Vec<Given>,
    problems: Vec<String>,
}

/// What is in force on a host; each is turned on and off by commands.
#[derive(Debug, Default, Clone, Copy)]
struct Given {
    attached: bool,
    connected: bool,
    exposed: bool,
}

/// How a fault was survived.
pub(super) struct Recovery {
    pub(super) kind: &'static str,
    /// What was done.
    pub(super) what: String,
    /// From the start of the last daemon to the first packets across, seconds.
    pub(super) back_secs: f64,
    /// From the first kill to the first packets across, seconds.
    pub(super) outage_secs: f64,
    /// What should not have been.
    pub(super) problems: Vec<String>,
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; across again {:.2} s after the start, {:.2} s after the kill",
            self.what, self.back_secs, self.outage_secs
        )?;
        for problem in &self.problems {
            write!(f, "\n      PROBLEM {problem}")?;
        }
        Ok(())
    }
}

/// A fault that has been made.
struct Fault {
    kind: &'static str,
    what: String,
    /// Hosts whose daemon was started anew.
    struck: Vec<usize>,
    /// Time of the first kill, seconds.
    first_secs: f64,
}

/// A command a daemon may die under.
#[derive(Debug, Clone, Copy)]
enum Order {
    Attach,
    Connect,
    Expose,
}

impl<'a> Faults<'a> {
    pub(super) fn new(hosts: &'a [Host<'a>], talk: &'a Talk, seed: u64) -> Self {
        Self {
            hosts,
            talk,
            chance: Chance::new(seed),
            kills: 0,
            given: vec![Given::default(); hosts.len()],
            problems: Vec::new(),
        }
    }

    /// One fault, and the way back from it.
    pub(super) fn strike(&mut self) -> Outcome<Recovery> {
        let host = self.chance.index(self.hosts.len());
        let fault = match self.chance.below(100) {
            0..35 => self.kill_once(host)?,
            35..55 => self.kill_while_starting(host)?,
            55..75 => self.kill_under_command(host)?,
            75..85 => self.kill_supervisor(host)?,
            85..93 => self.kill_while_launching(host)?,
            _ => self.kill_two(host)?,
        };
        self.recover(fault)
    }

    fn kill_once(&mut self, index: usize) -> Outcome<Fault> {
        let first_secs = uptime_secs();
        self.kill_daemon(index)?;
        Ok(Fault {
            kind: "killed",
            what: format!("{} killed", self.hosts[index].name),
            struck: vec![index],
            first_secs,
        })
    }

    fn kill_while_starting(&mut self, index: usize) -> Outcome<Fault> {
        let first_secs = uptime_secs();
        self.kill_daemon(index)?;
        let wait = self.chance.time(START_UP);
        thread::sleep(wait);
        self.kill_daemon(index)?;
        Ok(Fault {
            kind: "killed again at start-up",
            what: format!(
                "{} killed, and again {wait:.2?} after its start",
                self.hosts[index].name
            ),
            struck: vec![index],
            first_secs,
        })
    }

    fn kill_under_command(&mut self, index: usize) -> Outcome<Fault> {
        let order = [Order::Attach, Order::Connect, Order::Expose][self.chance.index(3)];
        let on = !self.is_given(index, order);
        let arguments = self.words(index, order, on);
        let mut command = self.hosts[index].weft(&words(&arguments));
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("weft {arguments:?}: {error}"))?;
        thread::sleep(self.chance.time(COMMAND));
        let first_secs = uptime_secs();
        self.kill_daemon(index)?;
        let done = finish_started(child, "it").is_ok();
        // What the command said it did has to be so now, though the daemon died.
        if done {
            self.expect(index, order, on, "after a command that succeeded");
        }
        // And given again, it has to work; what is detached already is not found.
        let host = &self.hosts[index];
        let what = format!("weft {arguments:?} on {}", host.name);
        wait_for(&what, LIMIT, || match host.run(&words(&arguments)) {
            Err(error) if on || !error.contains("Link not found") => Err(error),
            Ok(_) | Err(_) => Ok(()),
        })?;
        self.expect(index, order, on, "after the command was given again");
        *self.given_mut(index, order) = on;
        let outcome = if done { "after" } else { "under" };
        Ok(Fault {
            kind: "killed under a command",
            what: format!("{} killed {outcome} {}", host.name, arguments[0]),
            struck: vec![index],
            first_secs,
        })
    }

    fn kill_supervisor(&mut self, index: usize) -> Outcome<Fault> {
        let host = &self.hosts[index];
        let supervisor = host.supervisor().ok_or_else(|| host.story())?;
        kill(supervisor.pid);
        self.kills += 1;
        thread::sleep(self.chance.time(Duration::from_secs(1)));
        let first_secs = uptime_secs();
        let polite = self.chance.below(2) == 0;
        if polite {
            host.run(&["stop"])?;
        } else {
            let orphan = host.daemon().ok_or_else(|| host.story())?;
            kill(orphan.pid);
            self.kills += 1;
        }
        host.wait_empty()?;
        host.launch()?;
        self.given[index].connected = false;
        let then = if polite {
            "stopped"
        } else {
            "its daemon killed"
        };
        Ok(Fault {
            kind: "lost the supervisor",
            what: format!("{} lost its supervisor, was {then} and launched", host.name),
            struck: vec![index],
            first_secs,
        })
    }

    fn kill_while_launching(&mut self, index: usize) -> Outcome<Fault> {
        let host = &self.hosts[index];
        let first_secs = uptime_secs();
        for process in [host.supervisor(), host.daemon()].into_iter().flatten() {
            kill(process.pid);
            self.kills += 1;
        }
        host.wait_empty()?;
        let mut command = host.launch_command();
        let launch = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let launch: Child = launch.map_err(|error| format!("weft launch: {error}"))?;
        let wait = self.chance.time(Duration::from_millis(300));
        thread::sleep(wait);
        let victim = match self.chance.below(3) {
            0 => host.supervisor(),
            _ => host.daemon(),
        };
        if let Some(victim) = &victim {
            kill(victim.pid);
            self.kills += 1;
        }
        let launched = finish_started(launch, "weft launch").is_ok();
        if host.supervisor().is_none() {
            // Whatever is left is in the way of nobody.
            host.run(&["stop"])?;
            host.wait_empty()?;
            host.launch()?;
        }
        self.given[index].connected = false;
        let victim = victim.map_or_else(
            || "nobody".to_owned(),
            |victim| format!("{:?}", victim.role),
        );
        let result = if launched { "succeeded" } else { "failed" };
        Ok(Fault {
            kind: "killed in a launch",
            what: format!(
                "{} lost its {victim} {wait:.2?} into a launch that {result}",
                host.name
            ),
            struck: vec![index],
            first_secs,
        })
    }

    fn kill_two(&mut self, index: usize) -> Outcome<Fault> {
        let other = (index + 1) % self.hosts.len();
        let first_secs = uptime_secs();
        let both = [index, other].map(|index| (index, self.hosts[index].daemon()));
        for (_, daemon) in &both {
            kill(daemon.as_ref().ok_or("no daemon to kill")?.pid);
            self.kills += 1;
        }
        for (index, daemon) in &both {
            self.hosts[*index].wait_daemon(daemon.as_ref().map(|daemon| daemon.pid))?;
        }
        Ok(Fault {
            kind: "two killed at once",
            what: format!(
                "{} and {} killed",
                self.hosts[index].name, self.hosts[other].name
            ),
            struck: vec![index, other],
            first_secs,
        })
    }

    /// Kills the daemon and waits for the next.
    fn kill_daemon(&mut self, index: usize) -> Outcome<()> {
        let host = &self.hosts[index];
        let old = host.wait_daemon(None)?.pid;
        kill(old);
        self.kills += 1;
        host.wait_daemon(Some(old)).map(drop)
    }

    /// Waits until containers of the struck hosts talk to those of others again.
    fn recover(&mut self, fault: Fault) -> Outcome<Recovery> {
        let count = self.hosts.len();
        let (mut back_secs, mut outage_secs) = (0.0_f64, 0.0_f64);
        let mut slowest = String::new();
        for (from, probe) in self.talk.cross.iter().enumerate() {
            let ends = [from, (from + 1) % count];
            if !ends.iter().any(|end| fault.struck.contains(end)) {
                continue;
            }
            let first = wait_for(&format!("packets {}", probe.name), LIMIT, || {
                let started = self.started_secs(ends)?;
                let first = probe.heard(|heard| heard.first_after(started));
                let stories = || ends.map(|end| self.hosts[end].story()).join("\n");
                first.map(|first| (first, started)).ok_or_else(stories)
            });
            let (first, started) = first?;
            if first - started > back_secs {
                slowest.clone_from(&probe.name);
            }
            back_secs = back_secs.max(first - started);
            outage_secs = outage_secs.max(first - fault.first_secs);
        }
        for probe in &self.talk.same_host {
            let now = uptime_secs();
            if probe
                .heard(|heard| heard.first_after(now - SILENT_SECS))
                .is_none()
            {
                let problem = format!("{} silent for {SILENT_SECS} s", probe.name);
                self.problems.push(problem);
            }
        }
        let Fault { kind, what, .. } = fault;
        let what = format!("{what}, {slowest} last");
        let problems = std::mem::take(&mut self.problems);
        Ok(Recovery {
            kind,
            what,
            back_secs,
            outage_secs,
            problems,
        })
    }

    /// When the younger of the daemons of two hosts was started.
    fn started_secs(&self, ends: [usize; 2]) -> Outcome<f64> {
        let mut youngest = 0.0_f64;
        for end in ends {
            let daemon = self.hosts[end].daemon().ok_or("no daemon")?;
            youngest = youngest.max(daemon.started_secs);
        }
        Ok(youngest)
    }

    fn is_given(&mut self, index: usize, order: Order) -> bool {
        *self.given_mut(index, order)
    }

    fn given_mut(&mut self, index: usize, order: Order) -> &mut bool {
        let given = &mut self.given[index];
        match order {
            Order::Attach => &mut given.attached,
            Order::Connect => &mut given.connected,
            Order::Expose => &mut given.exposed,
        }
    }

    /// The command line of an order.
    fn words(&self, index: usize, order: Order, on: bool) -> Vec<String> {
        let host = &self.hosts[index];
        let verb = match (order, on) {
            (Order::Attach, true) => "attach",
            (Order::Attach, false) => "detach",
            (Order::Connect, true) => "connect",
            (Order::Connect, false) => "forget",
            (Order::Expose, true) => "expose",
            (Order::Expose, false) => "hide",
        };
        let mut words = vec![verb.to_owned()];
        match order {
            Order::Attach => {
                words.push(format!("{}/12", host.container_address(GUEST)));
                words.push("--netns".to_owned());
                words.push(host.stage.full(&host.container(GUEST)));
            }
            Order::Connect => words.push(NOBODY.to_owned()),
            Order::Expose => words.push(exposed_address(host)),
        }
        words
    }

    /// Notes a problem unless an order is in force, or not, as wanted.
    fn expect(&mut self, index: usize, order: Order, on: bool, when: &str) {
        let host = &self.hosts[index];
        let is_on = match order {
            Order::Attach => {
                let guest = host.stage.full(&host.container(GUEST));
                holds(&guest, &host.container_address(GUEST))
            }
            Order::Connect => wait_for("targets", LIMIT, || {
                host.run(&["status", "targets"])
                    .map(|said| said.contains(NOBODY))
            }),
            Order::Expose => holds(&host.stage.full(&host.name), &exposed_address(host)),
        };
        let reached = match order {
            Order::Attach if on => ping(host, GUEST, &host.container_address(TALKERS[0])),
            Order::Attach | Order::Connect | Order::Expose => Ok(()),
        };
        let name = &host.name;
        let found = match (is_on, reached) {
            (Err(error), _) | (_, Err(error)) => error,
            (Ok(is_on), _) if is_on == on => return,
            (Ok(is_on), _) => format!("is {is_on}"),
        };
        self.problems
            .push(format!("{order:?} to be {on} on {name} {when}: {found}"));
    }
}

/// Resets a host, each in another of the states it may be found in.
pub(super) fn reset(host: &Host<'_>, chance: &mut Chance) -> Outcome<()> {
    match host.number {
        1 => host.run(&["reset"]).map(drop)?,
        2 => {
            for process in [host.supervisor(), host.daemon()].into_iter().flatten() {
                kill(process.pid);
            }
            let mut command = host.weft(&["reset", "--force"]);
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let mut child = child.map_err(|error| format!("weft reset: {error}"))?;
            thread::sleep(chance.time(COMMAND));
            // Both fail only if it has ended.
            let _ = child.kill();
            let _ = child.wait();
            host.run(&["reset", "--force"]).map(drop)?;
        }
        _ => {
            if let Some(daemon) = host.daemon() {
                kill(daemon.pid);
            }
            host.run(&["reset", "--force"]).map(drop)?;
        }
    }
    Ok(())
}

fn exposed_address(host: &Host<'_>) -> String {
    format!("{}/12", host.container_address(100))
}

/// Whether a namespace has an address.
fn holds(space: &str, address: &str) -> Outcome<bool> {
    let mut command = std::process::Command::new("ip");
    let said = run(command.args(["-n", space, "-o", "addr"]))?;
    Ok(said.contains(&format!(" {address}")))
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}
