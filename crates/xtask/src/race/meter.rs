//! CPU time of everything that belongs to a path, by control groups.
//!
//! Daemons, traffic programs and all their threads are started inside a group of their path. A group sees
//! what the kernel does on behalf of its processes and in interrupts while they run, but not interrupts
//! that hit an idle core; the machine's own count, taken beside it, says how much that is.
//!
//! ```text
//!   race / path / namespace      every host's daemon, every container's programs
//! ```
//!
//! The groups below a path also take part in scheduling: where a daemon and programs want the same core,
//! each group gets the same share, as services and containers do. Without them the kernel would share by
//! session, and a daemon that makes a session of its own would be treated differently from one that does not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

/// Units per second of the counters in `/proc/stat` (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// The control groups of one command.
pub(crate) struct Meter {
    name: String,
    /// Where groups are made; the first one has the time.
    roots: Vec<PathBuf>,
    /// Name of the file with the time, and its units per second.
    unit: (&'static str, f64),
}

/// CPU time in seconds, since some moment in the past or between two.
#[derive(Clone, Copy)]
pub(crate) struct CpuTime {
    /// Of a path's group; not a number where there are no control groups.
    pub(crate) group: f64,
    /// Of the whole machine, this tool and other programs included.
    pub(crate) machine: f64,
}

impl CpuTime {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            group: self.group - before.group,
            machine: self.machine - before.machine,
        }
    }
}

impl Meter {
    /// A meter whose groups are called after `name`. Where other programs want a core too, all that is
    /// measured gets `weight` times the share of one of them.
    pub(crate) fn new(name: &str, weight: u64) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let v1 = root.join("cpuacct").is_dir();
        let roots = if v1 {
            vec![root.join("cpuacct"), root.join("cpu")]
        } else {
            vec![root.to_owned()]
        };
        let (unit, usual) = if v1 {
            (("cpuacct.usage", 1e9), ("cpu.shares", 1024))
        } else {
            (("cpu.stat", 1e6), ("cpu.weight", 100))
        };
        for root in roots.iter().filter(|_| weight != 1) {
            let base = root.join(name);
            // Only one kind of group has the file; without it every program is equal.
            let _ = fs::create_dir_all(&base);
            let _ = fs::write(root.join("cgroup.subtree_control"), "+cpu");
            let _ = fs::write(base.join(usual.0), (usual.1 * weight).to_string());
        }
        Self {
            name: name.to_owned(),
            roots,
            unit,
        }
    }

    /// The group of a lane that has its time, those of its namespaces included.
    fn group(&self, lane: &str) -> PathBuf {
        self.roots[0].join(&self.name).join(lane.replace(' ', "-"))
    }

    /// The command, started so that it and its children are counted for `lane`, in a group of those that run
    /// in namespace `space`.
    pub(crate) fn inside(&self, lane: &str, space: &str, command: &Command) -> Command {
        let mut shell = Command::new("sh");
        // Without control groups the column shows "-"; nothing else depends on it.
        let enter = "while [ \"$1\" != -- ]; do echo $$ > \"$1\"; shift; done 2>/dev/null";
        shell.args(["-c", &format!("{enter}; shift; exec \"$@\""), "sh"]);
        for root in &self.roots {
            let path = root.join(&self.name).join(lane.replace(' ', "-"));
            let group = path.join(space);
            let _ = fs::create_dir_all(&group);
            for above in path.ancestors().take(3) {
                // Version 2 schedules by a group only when told so from above.
                let _ = fs::write(above.join("cgroup.subtree_control"), "+cpu");
            }
            shell.arg(group.join("cgroup.procs"));
        }
        shell
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                shell.env(name, value);
            }
        }
        shell
    }

    /// The processes counted for `lane` at this moment.
    pub(crate) fn processes(&self, lane: &str) -> Vec<u32> {
        let groups = directories(&self.group(lane));
        let read = |group: &PathBuf| fs::read_to_string(group.join("cgroup.procs"));
        let text: String = groups.iter().filter_map(|group| read(group).ok()).collect();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// CPU time used so far.
    pub(crate) fn now(&self, lane: &str) -> CpuTime {
        let (file, per_second) = self.unit;
        let text = fs::read_to_string(self.group(lane).join(file)).unwrap_or_default();
        let number = text.lines().next().and_then(|line| line.rsplit(' ').next());
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        CpuTime {
            group: number
                .and_then(|number| number.parse().ok())
                .map_or(f64::NAN, |n: f64| n / per_second),
            machine: busy_seconds(&stat),
        }
    }

    /// Removes the groups; those that still hold a process after a while stay.
    pub(crate) fn remove(&self) {
        for _ in 0..20 {
            let bases = self.roots.iter().map(|root| root.join(&self.name));
            let left: Vec<PathBuf> = bases.filter(|base| base.is_dir()).collect();
            for base in &left {
                for lane in directories(base) {
                    // Busy until its last process is gone; the next turn comes back to it.
                    let _ = directories(&lane).iter().try_for_each(fs::remove_dir);
                    let _ = fs::remove_dir(lane);
                }
                let _ = fs::remove_dir(base);
            }
            if left.iter().all(|base| !base.exists()) {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.is_dir()).collect()
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Seconds all cores were busy for us: user, nice, system, irq and softirq of the first line.
fn busy_seconds(stat: &str) -> f64 {
    let first = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = first
        .split_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    if ticks.len() < 7 {
        return f64::NAN;
    }
    [0, 1, 2, 5, 6].iter().map(|&at| ticks[at]).sum::<f64>() / TICKS_PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_waiting_and_stolen_time_is_not_busy() {
        let stat = "cpu  100 200 300 9000 50 1 2 70 0 0\ncpu0 1 2 3\n";
        assert!((busy_seconds(stat) - 6.03).abs() < 1e-9);
        assert!(busy_seconds("").is_nan());
    }
}
