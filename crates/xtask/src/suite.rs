//! `cargo xtask test`: builds every test once, runs them cheapest first, and counts.
//!
//! The test programs are started by us rather than by cargo, so that kernel tests come after the quick
//! ones and run few at a time. A kernel test that cannot run writes a line `skipped: <why>` to the
//! standard error; it is counted as skipped, not as passed.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::setup;
use crate::stopwatch::Stopwatch;

/// No test program may take longer; it is ended and counted as one failure.
const PROGRAM_TIME_MAX: Duration = Duration::from_secs(10 * 60);

/// How many kernel tests run side by side: each has several daemons, on machines of two cores.
const KERNEL_TEST_THREADS: usize = 3;

/// Docker engines are heavy; one at a time.
const DOCKER_TEST_THREADS: usize = 1;

/// Mark of a test that could not run, at the start of a line on its standard error.
const SKIP_MARK: &str = "skipped: ";

/// What came of tests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    /// Negative for a moment when a skip is seen before the result that counts it as passed.
    passed: isize,
    failed: usize,
    skipped: usize,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Reads one line of a test program.
    fn read_line(&mut self, line: &str) {
        if line.starts_with(SKIP_MARK) {
            self.skipped += 1;
            self.passed -= 1;
        }
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        let number = |what: &str| {
            result
                .split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<usize>().ok())
                .unwrap_or(0)
        };
        self.passed += number(" passed").cast_signed();
        self.failed += number(" failed");
        self.skipped += number(" ignored");
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// When a test program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rung {
    Unit,
    Simulation,
    Kernel,
    Docker,
    Interop,
}

/// A built test program.
#[derive(Debug, PartialEq, Eq)]
struct TestProgram {
    rung: Rung,
    name: String,
    package: PathBuf,
    executable: PathBuf,
}

/// Runs everything. `only` limits it to programs whose name contains one of the words.
pub(crate) fn run(only: &[&str]) -> ExitCode {
    let watch = Stopwatch::start();
    prepare();
    let Some(programs) = build() else {
        println!("the tests do not build");
        return ExitCode::FAILURE;
    };
    println!("built {} test programs in {}", programs.len(), watch);
    let mut total = Count::default();
    for program in &programs {
        if only.is_empty() || only.iter().any(|word| program.name.contains(word)) {
            total.add(run_program(program));
        }
    }
    if only.is_empty() {
        let mut command = cargo(&["test", "--workspace", "--doc", "--quiet"]);
        total.add(run_counted("doc examples", &mut command));
    }
    println!("all in {watch}");
    println!("{total}");
    if total.failed == 0 && total.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn prepare() {
    if !setup::is_root() {
        println!("NOT ROOT: kernel and Docker tests need root and will be skipped");
    }
    let mut missing = setup::ensure(setup::FOR_TEST);
    missing.extend(setup::ensure(setup::DOCKER));
    if !missing.is_empty() {
        println!(
            "MISSING {}: tests that need them will be skipped",
            missing.join(" ")
        );
    }
}

fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(crate::tidy::workspace_root());
    command.env("PATH", setup::search_path());
    command
}

/// Builds all test programs, with cargo saying what it builds; `None` if one does not build.
fn build() -> Option<Vec<TestProgram>> {
    let arguments = [
        "test",
        "--workspace",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ];
    let output = cargo(&arguments).stderr(Stdio::inherit()).output().ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut programs: Vec<TestProgram> = text.lines().filter_map(read_artifact).collect();
    programs.sort_by(|a, b| (a.rung, &a.name).cmp(&(b.rung, &b.name)));
    Some(programs)
}

/// Reads one of cargo's messages; only test programs are of interest.
fn read_artifact(message: &str) -> Option<TestProgram> {
    let is_test = message.contains("\"reason\":\"compiler-artifact\"")
        && message.contains("\"test\":true},\"features\"");
    if !is_test {
        return None;
    }
    let manifest = PathBuf::from(string_after(message, "\"manifest_path\":")?);
    let target = &message[message.find("\"target\":")?..];
    let target_name = string_after(target, "\"name\":")?;
    let package = manifest.parent()?.to_owned();
    let krate = package.file_name()?.to_str()?.to_owned();
    let name = if krate == target_name {
        krate
    } else {
        format!("{krate} {target_name}")
    };
    let rung = match target_name {
        "sim" => Rung::Simulation,
        name if name.starts_with("netns_") => Rung::Kernel,
        name if name.starts_with("docker_") => Rung::Docker,
        name if name.starts_with("interop_") => Rung::Interop,
        _ if package.ends_with("sim") => Rung::Simulation,
        _ => Rung::Unit,
    };
    let executable = PathBuf::from(string_after(message, "\"executable\":")?);
    Some(TestProgram {
        rung,
        name,
        package,
        executable,
    })
}

/// The JSON string that follows the first `key`. The strings in question hold no escapes.
fn string_after<'a>(message: &'a str, key: &str) -> Option<&'a str> {
    let value = message[message.find(key)? + key.len()..].strip_prefix('"')?;
    value.split('"').next()
}

fn run_program(program: &TestProgram) -> Count {
    let mut command = Command::new(&program.executable);
    command
        .current_dir(&program.package)
        .env("PATH", setup::search_path());
    let threads = match program.rung {
        Rung::Unit | Rung::Simulation => None,
        Rung::Kernel => Some(KERNEL_TEST_THREADS),
        Rung::Docker | Rung::Interop => Some(DOCKER_TEST_THREADS),
    };
    if let Some(threads) = threads {
        command.arg(format!("--test-threads={threads}"));
    }
    run_counted(&program.name, &mut command)
}

/// Runs a test program, passing its output on and counting. Ends it when it takes too long.
fn run_counted(name: &str, command: &mut Command) -> Count {
    println!("\n== {name}");
    let watch = Stopwatch::start();
    let spawned = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            println!("{name}: {error}");
            return Count {
                failed: 1,
                ..Count::default()
            };
        }
    };
    let count = Arc::new(Mutex::new(Count::default()));
    // The readers end when the last holder of the pipe does, which may be a daemon that a broken test
    // left behind; so they are not joined but given a moment.
    let out = child
        .stdout
        .take()
        .map(|pipe| read_lines(pipe, Arc::clone(&count)));
    let err = child
        .stderr
        .take()
        .map(|pipe| read_lines(pipe, Arc::clone(&count)));
    let success = wait(&mut child, &watch, name);
    let grace = Stopwatch::start();
    while [&out, &err]
        .iter()
        .any(|reader| reader.as_ref().is_some_and(|r| !r.is_finished()))
        && grace.elapsed() < Duration::from_secs(3)
    {
        thread::sleep(Duration::from_millis(20));
    }
    let mut count = *count.lock().expect("no reader panics while holding it");
    if !success && count.failed == 0 {
        println!("{name}: ended without a verdict");
        count.failed = 1;
    }
    println!("-- {name}: {count} in {watch}");
    count
}

fn read_lines(
    pipe: impl Read + Send + 'static,
    count: Arc<Mutex<Count>>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            count
                .lock()
                .expect("no reader panics while holding it")
                .read_line(&line);
        }
    })
}

fn wait(child: &mut Child, watch: &Stopwatch, name: &str) -> bool {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if watch.elapsed() < PROGRAM_TIME_MAX => {
                thread::sleep(Duration::from_millis(20));
            }
            Ok(None) | Err(_) => {
                println!("{name}: ended after {watch}, too long");
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn results_are_counted_and_skips_are_not_passes() {
        let mut count = Count::default();
        for line in [
            "skipped: netns_a: needs root",
            "test netns_a ... ok",
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
            "test result: FAILED. 14 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out",
        ] {
            count.read_line(line);
        }
        assert_eq!(count.to_string(), "14 passed, 1 failed, 3 skipped");
    }

    #[test]
    fn test_programs_are_read_from_the_messages_of_cargo() {
        let message = r#"{"reason":"compiler-artifact","package_id":"p","manifest_path":"/r/crates/weft/Cargo.toml","target":{"kind":["test"],"crate_types":["bin"],"name":"netns_mesh","src_path":"/r/x.rs"},"profile":{"opt_level":"1","test":true},"features":[],"filenames":[],"executable":"/t/netns_mesh-1","fresh":true}"#;
        let program = read_artifact(message).expect("a test program");
        assert_eq!(program.rung, Rung::Kernel);
        assert_eq!(program.name, "weft netns_mesh");
        assert_eq!(program.package, Path::new("/r/crates/weft"));
        assert_eq!(program.executable, Path::new("/t/netns_mesh-1"));
        assert_eq!(
            read_artifact(&message.replace("\"test\":true", "\"test\":false")),
            None
        );
    }
}
