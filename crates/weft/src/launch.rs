//! `launch`, `daemon` and the hidden `supervise`.
//!
//! `launch` starts `supervise` in a session of its own and waits for its word; `supervise` starts
//! `daemon` and starts it again when it dies. The passphrase travels through pipes only.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use daemon::store::{self, Lock};
use daemon::supervise::{self, Plan, SUPERVISOR_LOCK};
use zeroize::Zeroizing;

use crate::args::parse::Given;
use crate::args::{DaemonArgs, LaunchArgs};
use crate::client::{run_dir, state_dir};
use crate::config::{Options, Secret, addresses};
use crate::failure::{Failure, Outcome};
use crate::hints;
use crate::output::print;
use crate::privilege::need_root;
use crate::program::Program;
use crate::variables::{RUN_DIR, STATE_DIR};

/// Exit status when a daemon runs already.
const EXIT_RUNNING: u8 = 3;
/// Passphrases shorter than this can be guessed; characters.
const PASSWORD_CHARS_SHORT: usize = 12;
/// How long whoever has the control address may take to say what it is.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);
/// Flags of `launch` that are not for the supervisor, or reach it by another way.
const NOT_PASSED_ON: &[&str] = &["no-restart", "foreground", "password", "password-file"];
/// Log files larger than this are put aside at launch, bytes.
const LOG_BYTES_KEPT: u64 = 1 << 20;

pub(crate) fn launch(program: Program, args: &LaunchArgs, given: &Given) -> Outcome {
    let options = Options::new(&args.daemon, given);
    if answers_at_once(program, &args.daemon, &options)? {
        return Ok(());
    }
    need_root()?;
    warn(&args.daemon);
    refuse_second(program, &args.daemon.api.http_addr)?;
    let password = take_password(&options)?;
    let config = options.config(password.as_ref())?;
    if let Some(ipam) = &config.ipam {
        let bridge = &config.host.bridge;
        if let Some(warning) = addresses::check_routes(&args.daemon.addresses, ipam, bridge)? {
            eprintln!("{warning}");
        }
    }
    daemon::log::check(&options.log_filter()).map_err(anyhow::Error::from)?;
    let run_dir = run_dir();
    store::create_directory(&run_dir).map_err(anyhow::Error::from)?;
    daemon::start::forget_launch(&run_dir);
    if args.launch.foreground {
        return run_daemon(&options, config);
    }
    drop(config);
    start_supervisor(program, args, given, password.as_ref(), &run_dir)
}

fn warn(args: &DaemonArgs) {
    for warning in args.absent.warnings() {
        eprintln!("{warning}");
    }
}

/// Starts the supervisor and waits until the daemon is ready or has died.
fn start_supervisor(
    program: Program,
    args: &LaunchArgs,
    given: &Given,
    password: Option<&Secret>,
    run_dir: &Path,
) -> Outcome {
    let log_path = run_dir.join(supervise::LOG_NAME);
    if std::fs::metadata(&log_path).is_ok_and(|log| log.len() > LOG_BYTES_KEPT) {
        std::fs::rename(&log_path, log_path.with_extension("log.1")).context("renaming the log")?;
    }
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&log_path)
        .with_context(|| format!("opening {}", log_path.display()))?;
    let log_start = log.metadata().context("looking at the log")?.len();

    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.arg("supervise");
    if args.launch.no_restart {
        command.arg("--no-restart");
    }
    command
        .args(given.without(NOT_PASSED_ON, &args.daemon.peers))
        .env(STATE_DIR.name, state_dir())
        .env(RUN_DIR.name, run_dir)
        .env_remove("WEAVE_PASSWORD")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log);
    let mut child = command.spawn().context("starting the supervisor")?;
    let mut input = child.stdin.take().context("the supervisor has no input")?;
    input
        .write_all(password.map_or(&b""[..], |secret| secret.0.as_bytes()))
        .context("handing the passphrase over")?;
    drop(input);
    let output = child
        .stdout
        .take()
        .context("the supervisor has no output")?;
    let mut word = String::new();
    BufReader::new(output)
        .read_line(&mut word)
        .context("waiting for the daemon")?;
    if word.trim() == supervise::READY_WORD {
        return Ok(());
    }
    let _ = child.wait();
    Err(Failure::exit(1, last_words(program, &log_path, log_start)))
}

/// Why a daemon died, from its log.
fn last_words(program: Program, log_path: &Path, log_start: u64) -> String {
    let log = std::fs::read(log_path).unwrap_or_default();
    let fresh = log
        .get(usize::try_from(log_start).unwrap_or(0)..)
        .unwrap_or_default();
    let fresh = String::from_utf8_lossy(fresh);
    let mut fatal: Vec<&str> = fresh
        .lines()
        .skip_while(|line| !line.starts_with("FATA: "))
        .collect();
    let died = hints::has_died(program, log_path);
    if fatal.is_empty() {
        let tail: Vec<&str> = fresh.lines().collect();
        let tail = tail[tail.len().saturating_sub(5)..].join("\n");
        return format!("{died}\n{tail}");
    }
    // `FATA: date time message`
    fatal[0] = fatal[0].splitn(4, ' ').nth(3).unwrap_or(fatal[0]);
    format!("{program}: {}\n{died}", fatal.join("\n"))
}

/// Whether a flag asked for a word instead of a launch.
fn answers_at_once(
    program: Program,
    args: &DaemonArgs,
    options: &Options<'_>,
) -> Result<bool, Failure> {
    if args.instead.version {
        print(&format!("{program} {}\n", env!("CARGO_PKG_VERSION")))?;
        return Ok(true);
    }
    if args.instead.print_peer_name {
        let config = options.config(None)?;
        print(&format!("{}\n", daemon::start::derive_name(&config)?))?;
        return Ok(true);
    }
    Ok(false)
}

fn refuse_second(program: Program, control_address: &str) -> Outcome {
    let running = Lock::holder(&state_dir()).is_some()
        || Lock::holder_named(&run_dir(), SUPERVISOR_LOCK).is_some();
    if running {
        return Err(Failure::exit(EXIT_RUNNING, hints::already_running(program)));
    }
    // Another daemon, or the original, on the same control address.
    if !control_address.starts_with('/') && !control_address.is_empty() {
        let endpoint = api::client::Endpoint::Tcp(control_address.to_owned());
        let status = endpoint.probe("/status", PROBE_PATIENCE);
        if status.is_ok_and(|answer| answer.body.contains("Service: router")) {
            return Err(Failure::exit(1, "Weave Net is already running"));
        }
    }
    Ok(())
}

/// The passphrase, taken out of the process list.
fn take_password(options: &Options<'_>) -> Result<Option<Secret>, Failure> {
    let password = options.password()?;
    if let Some(secret) = &password
        && options.is_password_given()
        && let Err(error) = linux::proc::scrub_argument(&secret.0)
    {
        eprintln!("WARNING: the passphrase is visible in the process list: {error}");
    }
    if let Some(secret) = &password
        && secret.0.chars().count() < PASSWORD_CHARS_SHORT
    {
        eprintln!(
            "WARNING: the passphrase is short and could be guessed; \
             use at least {PASSWORD_CHARS_SHORT} random characters"
        );
    }
    Ok(password)
}

/// Runs the daemon in the foreground.
pub(crate) fn daemon(program: Program, args: &DaemonArgs, given: &Given) -> Outcome {
    let options = Options::new(args, given);
    if answers_at_once(program, args, &options)? {
        return Ok(());
    }
    need_root()?;
    warn(args);
    let password = take_password(&options)?;
    let config = options.config(password.as_ref())?;
    run_daemon(&options, config)
}

fn run_daemon(options: &Options<'_>, config: daemon::config::Config) -> Outcome {
    daemon::log::init(&options.log_filter()).map_err(anyhow::Error::from)?;
    match daemon::start::run(config) {
        Ok(()) => Ok(()),
        Err(error) => {
            daemon::log::fatal(&format!("{error:#}"));
            Err(Failure::exit(1, ""))
        }
    }
}

/// Keeps a daemon running; started by `launch` only.
pub(crate) fn supervise(args: &LaunchArgs, given: &Given) -> Outcome {
    let password = Zeroizing::new(
        std::io::read_to_string(std::io::stdin()).context("reading the passphrase")?,
    );
    linux::proc::detach_from_terminal().context("leaving the terminal")?;
    let mut arguments = vec!["daemon".to_owned()];
    if !password.is_empty() {
        arguments.push("--password-file=-".to_owned());
    }
    arguments.extend(given.without(NOT_PASSED_ON, &args.daemon.peers));
    let plan = Plan {
        program: std::env::current_exe().context("finding this program")?,
        arguments,
        password,
        run_dir: run_dir(),
        restart: !args.launch.no_restart,
    };
    match supervise::run(plan)? {
        0 => Ok(()),
        code => Err(Failure::exit(code, "")),
    }
}
