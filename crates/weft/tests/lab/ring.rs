//! Peers of both kinds that share out addresses, asked through the HTTP interface both have
//! (spec/ipam.md 11).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use api::client::Endpoint;

use super::Lab;
use super::host::Host;
use super::namespace::Namespace;
use super::original::{Original, find_original};
use super::patience::wait_for;

/// The control interface of either kind, inside its host.
const CONTROL: &str = "127.0.0.1:6784";

/// One peer of a ring.
pub(crate) struct Member {
    host: Rc<Host>,
    original: Option<Original>,
    arguments: Vec<String>,
}

/// A running network whose peers share out addresses. No peer has a container.
pub(crate) struct Ring {
    pub(crate) members: Vec<Member>,
    // Dropped last: it ends what runs on its hosts.
    pub(crate) lab: Lab,
}

/// Status and body of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Said {
    /// The body; fails the test unless the status is one of success.
    pub(crate) fn ok(self) -> String {
        assert!((200..300).contains(&self.status), "{self:?}");
        self.body
    }
}

impl Member {
    /// Starts (again) its daemon.
    pub(crate) fn launch(&self) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        match &self.original {
            Some(original) => original.launch(&arguments),
            None => self.host.launch(&arguments),
        }
    }

    /// Ends its daemon the polite way.
    pub(crate) fn stop(&self) {
        match &self.original {
            Some(original) => original.stop(),
            None => drop(self.host.weft(&["stop"]).ok()),
        }
    }

    /// Ends everything on its host the hard way.
    pub(crate) fn kill(&self) {
        self.host.kill_everything();
    }

    pub(crate) fn host(&self) -> &Rc<Host> {
        &self.host
    }

    /// The name other peers know it by.
    pub(crate) fn name(&self) -> String {
        self.host.peer_name()
    }

    /// One request to its daemon.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Result<Said, String> {
        self.host.namespace.within(|| request(method, path))
    }

    /// Asks for an address until there is one.
    pub(crate) fn allocate(&self, ident: &str) -> String {
        wait_for(&format!("an address on {}", self.host.name()), || {
            let said = self.ask("POST", &format!("/ip/{ident}?wait=true"))?;
            match said.status {
                200 if said.body != "cancelled" => Ok(said.body),
                _ => Err(format!("{said:?}\n{}", self.story())),
            }
        })
    }

    /// `status ipam`.
    pub(crate) fn shares(&self) -> String {
        let answer = self.ask("GET", "/status/ipam");
        answer.map_or_else(|error| error, |said| said.body)
    }

    /// How many addresses each peer owns, by name, as this one sees it.
    pub(crate) fn owners(&self) -> BTreeMap<String, u64> {
        let shares = self.shares();
        let lines = shares.lines().filter_map(|line| {
            let name = line.split('(').next()?.to_owned();
            let count = line.split(')').nth(1)?.split_whitespace().next()?;
            Some((name, count.parse().ok()?))
        });
        lines.collect()
    }

    /// What it said, for the message of a failed test.
    pub(crate) fn story(&self) -> String {
        let log = self.original.as_ref().map(Original::log);
        let log = log.unwrap_or_else(|| self.host.story());
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Fails the test if its daemon ended or panicked.
    pub(crate) fn assert_healthy(&self) {
        let story = self.story();
        assert!(!story.contains("panic"), "{story}");
        if let Some(original) = &self.original {
            assert!(original.is_running(), "an original ended:\n{story}");
        }
    }
}

impl Ring {
    /// Hosts on one network with a daemon of the kind each letter says (`O` original, `W` Weft),
    /// none started. Each knows the first. `None`, loudly, where that cannot be.
    pub(crate) fn prepare(kinds: &str, range: &str, roles: &[&str]) -> Option<Self> {
        let binary = match kinds.contains('O') {
            true => Some(find_original()?),
            false => None,
        };
        let lab = Lab::plain()?;
        let named = |(index, letter): (usize, char)| {
            lab.host(&format!("{}{}", letter.to_ascii_lowercase(), index + 1))
        };
        let hosts: Vec<_> = kinds.chars().enumerate().map(named).collect();
        let all: Vec<&Host> = hosts.iter().map(AsRef::as_ref).collect();
        lab.network("192.168.77", &all);
        let first = hosts[0].address(0);
        let members = hosts.iter().zip(kinds.chars()).enumerate();
        let members = members.map(|(index, (host, kind))| Member {
            host: Rc::clone(host),
            original: (kind == 'O').then(|| original(host, binary.as_ref(), index + 1)),
            arguments: {
                let mut words = vec!["--ipalloc-range".to_owned(), range.to_owned()];
                words.extend(["--ipalloc-init".to_owned(), roles[index].to_owned()]);
                words.extend((index > 0).then(|| first.clone()));
                words
            },
        });
        let members = members.collect();
        Some(Self { members, lab })
    }

    /// As `prepare`, with all daemons started in the order of the letters and connected.
    pub(crate) fn start(kinds: &str, range: &str, roles: &[&str]) -> Option<Self> {
        let ring = Self::prepare(kinds, range, roles)?;
        ring.members.iter().for_each(Member::launch);
        ring.wait_connected();
        Some(ring)
    }

    /// Waits until everybody has a connection to everybody.
    pub(crate) fn wait_connected(&self) {
        for member in &self.members {
            let wanted = self.members.len() - 1;
            wait_for(&format!("connections of {}", member.host.name()), || {
                let said = member.ask("GET", "/status/connections")?;
                let established = |line: &&str| line.contains(" established ");
                if said.body.lines().filter(established).count() == wanted {
                    Ok(())
                } else {
                    Err(format!("{}{}", said.body, member.story()))
                }
            });
        }
    }

    /// Waits until all members agree on who owns how much.
    pub(crate) fn wait_agreed(&self) -> BTreeMap<String, u64> {
        wait_for("one view of the ring", || {
            let views: Vec<_> = self.members.iter().map(Member::owners).collect();
            let same = views
                .iter()
                .all(|view| *view == views[0] && !view.is_empty());
            if same {
                Ok(views[0].clone())
            } else {
                let stories = self.members.iter().map(Member::story);
                Err(format!("{views:#?}\n{}", stories.collect::<String>()))
            }
        })
    }

    pub(crate) fn assert_healthy(&self) {
        self.members.iter().for_each(Member::assert_healthy);
    }
}

/// Asks all members at once for many addresses, each by several clients.
pub(crate) fn allocate_everywhere(members: &[Member], clients: usize, each: usize) -> Vec<String> {
    let spaces: Vec<&Namespace> = members.iter().map(|m| &m.host.namespace).collect();
    std::thread::scope(|scope| {
        let client = |member: usize, number: usize| {
            let one = |index: usize| {
                let path = format!("/ip/c{member}-{number}-{index}?wait=true");
                let said = request("POST", &path).expect("the daemon answers");
                assert_eq!(said.status, 200, "{said:?}");
                said.body
            };
            (0..each).map(one).collect::<Vec<_>>()
        };
        let mut running = Vec::new();
        for (member, space) in spaces.iter().enumerate() {
            for number in 0..clients {
                running.push(scope.spawn(move || space.within(|| client(member, number))));
            }
        }
        let given = running.into_iter().map(|thread| thread.join());
        given.flat_map(|given| given.expect("no panic")).collect()
    })
}

fn original(host: &Rc<Host>, binary: Option<&PathBuf>, number: usize) -> Original {
    let binary = binary.expect("looked for").clone();
    Original::new(Rc::clone(host), binary, number, None)
}

/// One request to the daemon of the network namespace this thread is in.
pub(crate) fn request(method: &str, path: &str) -> Result<Said, String> {
    let endpoint = Endpoint::Tcp(CONTROL.to_owned());
    let answer = endpoint.request(method, path, None, None);
    let answer = answer.map_err(|error| error.to_string())?;
    Ok(Said {
        status: answer.status,
        body: answer.body,
    })
}
