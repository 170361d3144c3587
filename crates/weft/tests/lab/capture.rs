//! Recording the underlay, and looking for container bytes in the record.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::namespace::{Namespace, run, signal, text};
use super::patience::Stopwatch;

/// Sixteen bytes that every container payload of the tests is made of.
pub(crate) const MARKER: &[u8; 16] = b"WEFT-TRIPWIRE-01";

/// A record that has not grown for so long is complete.
const SETTLE: Duration = Duration::from_millis(300);

/// A record that still grows after so long is complete enough.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// A running capture of all ports of a switch.
pub(crate) struct Capture {
    tcpdump: Child,
    file: PathBuf,
}

impl Capture {
    /// Returns when the capture is really running.
    pub(crate) fn start(switch: &Namespace, directory: &Path) -> Self {
        let file = directory.join("underlay.pcap");
        let mut tcpdump = switch
            .entered("tcpdump")
            .args(["-i", "any", "--immediate-mode", "-U", "-s", "0"])
            .args(["-B", "32768", "-Z", "root", "-w"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump starts");
        let mut words = BufReader::new(tcpdump.stderr.take().expect("piped above"));
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            let length = words.read_line(&mut line).expect("tcpdump speaks text");
            assert_ne!(length, 0, "tcpdump ended before it listened");
        }
        // Whatever tcpdump says later is of no interest, but its pipe must not break.
        std::thread::spawn(move || std::io::copy(&mut words, &mut std::io::sink()));
        Self { tcpdump, file }
    }

    /// Ends the capture, once what is on its way has been written, and returns the bytes recorded.
    pub(crate) fn stop(mut self) -> Vec<u8> {
        let size = || std::fs::metadata(&self.file).map_or(0, |metadata| metadata.len());
        let (watch, mut last) = (Stopwatch::start(), None);
        while last != Some(size()) && watch.elapsed() < SETTLE_MAX {
            last = Some(size());
            std::thread::sleep(SETTLE);
        }
        self.end();
        std::fs::read(&self.file).expect("tcpdump wrote its file")
    }

    /// Ends the capture and returns what of it a tcpdump filter lets through, one packet per line.
    pub(crate) fn matching(self, filter: &str) -> String {
        let file = self.file.clone();
        self.stop();
        let output = run(Command::new("tcpdump")
            .args(["-n", "-Z", "root", "-r"])
            .arg(file)
            .arg(filter));
        assert!(output.status.success(), "tcpdump reads its own file");
        text(&output.stdout)
    }

    /// Ends the capture and counts how often container payload appears in it.
    pub(crate) fn marker_count(self) -> usize {
        count(&self.stop(), MARKER)
    }

    fn end(&mut self) {
        let pid = i32::try_from(self.tcpdump.id()).expect("a pid fits");
        signal(pid, Signal::INT);
        // Both fail only when it has been waited for already.
        let _ = self.tcpdump.wait();
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

/// How often `needle` appears in `bytes`.
pub(crate) fn count(bytes: &[u8], needle: &[u8]) -> usize {
    let first = needle[0];
    let mut found = 0;
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        rest = &rest[at..];
        if rest.starts_with(needle) {
            found += 1;
        }
        rest = &rest[1..];
    }
    found
}
