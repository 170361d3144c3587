//! The small parent of a launched daemon: starts it again when it dies, until told to stop.
//!
//! It speaks to `launch` by one word on standard output, to the daemon by the service manager's
//! notification protocol, and holds a lock so that `stop` finds it. It knows nothing of the network.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use zeroize::Zeroizing;

use crate::clock;
use crate::store::Lock;

/// Name of the supervisor's lock in the run directory.
pub const SUPERVISOR_LOCK: &str = "supervisor.lock";
/// Name of the log in the run directory.
pub const LOG_NAME: &str = "weft.log";
/// What `launch` is told when the daemon is ready.
pub const READY_WORD: &str = "ready";
/// Name of the notification socket in the run directory.
const NOTIFY_NAME: &str = "notify.sock";
/// How long a daemon may take to stop (the original's limit).
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a process may take that has to stop others first.
const END_TIMEOUT: Duration = Duration::from_secs(15);
/// First and longest wait before a dead daemon is started again.
const RESTART_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A daemon that lived this long starts again at the first wait: it had connections by then, so it
/// does not die of its start, and every second of waiting is one without the other hosts.
const HEALTHY: Duration = Duration::from_secs(5);
/// How often the size of the log is looked at.
const LOG_PERIOD: Duration = Duration::from_secs(60);
/// Size above which the log is put aside, bytes.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// What to keep running.
pub struct Plan {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Written to its standard input.
    pub password: Zeroizing<String>,
    /// The run directory.
    pub run_dir: PathBuf,
    /// Whether to start it again.
    pub restart: bool,
}

/// How one daemon ended.
enum End {
    /// We were told to stop.
    Stopped,
    /// By itself, with this exit status; `None` after a signal.
    Died(Option<i32>),
}

/// Runs until told to stop, or until the daemon ends for good. Returns the exit status. Blocks.
pub fn run(plan: Plan) -> anyhow::Result<u8> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(keep_running(plan))
}

async fn keep_running(plan: Plan) -> anyhow::Result<u8> {
    let _lock = Lock::take_named(&plan.run_dir, SUPERVISOR_LOCK)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let notify_path = plan.run_dir.join(NOTIFY_NAME);
    let notify = bind_notify(&notify_path).context("opening the notification socket")?;
    let mut was_ready = false;
    let mut wait = RESTART_WAIT.0;
    loop {
        let started = clock::now();
        let mut child = start(&plan, &notify_path)
            .await
            .context("starting the daemon")?;
        let end = watch(&plan, &mut child, &notify, &mut terminate, &mut was_ready).await?;
        let code = match end {
            End::Stopped => break,
            End::Died(code) => code,
        };
        // A clean exit was asked for; a daemon that never was ready would not be the next time.
        if code == Some(0) || !was_ready || !plan.restart {
            let _ = std::fs::remove_file(&notify_path);
            return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
        }
        if clock::now() - started >= HEALTHY {
            wait = RESTART_WAIT.0;
        }
        crate::log::warn_line(&format!(
            "the daemon died (status {code:?}), starting it again"
        ));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = terminate.recv() => break,
        }
        wait = (wait * 2).min(RESTART_WAIT.1);
    }
    let _ = std::fs::remove_file(&notify_path);
    Ok(0)
}

fn bind_notify(path: &Path) -> io::Result<UnixDatagram> {
    let _ = std::fs::remove_file(path);
    let socket = StdDatagram::bind(path)?;
    socket.set_nonblocking(true)?;
    UnixDatagram::from_std(socket)
}

async fn start(plan: &Plan, notify_path: &Path) -> io::Result<Child> {
    let mut child = Command::new(&plan.program)
        .args(&plan.arguments)
        .env("NOTIFY_SOCKET", notify_path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A daemon that does not read it dies of its own reasons.
        // The line end is not part of the passphrase; what reads it takes one away.
        let line = Zeroizing::new(format!("{}\n", plan.password.as_str()));
        let _ = input.write_all(line.as_bytes()).await;
    }
    Ok(child)
}

/// Waits until the daemon ends or we are told to stop it.
async fn watch(
    plan: &Plan,
    child: &mut Child,
    notify: &UnixDatagram,
    terminate: &mut SignalStream,
    was_ready: &mut bool,
) -> anyhow::Result<End> {
    let mut log_period = tokio::time::interval(LOG_PERIOD);
    let mut message = [0; 256];
    loop {
        tokio::select! {
            status = child.wait() => {
                let status = status.context("waiting for the daemon")?;
                return Ok(End::Died(status.code()));
            }
            received = notify.recv(&mut message) => {
                let length = received.unwrap_or(0);
                if message[..length].starts_with(b"READY=1") && !*was_ready {
                    *was_ready = true;
                    let mut out = io::stdout();
                    // `launch` may have been interrupted; the daemon runs nevertheless.
                    let _ = writeln!(out, "{READY_WORD}").and_then(|()| out.flush());
                }
            }
            _ = log_period.tick() => limit_log(&plan.run_dir.join(LOG_NAME)),
            _ = terminate.recv() => {
                stop(child).await?;
                return Ok(End::Stopped);
            }
        }
    }
}

async fn stop(child: &mut Child) -> anyhow::Result<()> {
    if let Some(pid) = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw)
    {
        // It may have ended by itself this very moment.
        let _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(STOP_TIMEOUT, child.wait())
        .await
        .is_err()
    {
        child.kill().await.context("killing the daemon")?;
    }
    Ok(())
}

/// Puts a large log aside. Writers append, so truncating it is safe.
fn limit_log(path: &Path) {
    if std::fs::metadata(path).is_ok_and(|log| log.len() > LOG_BYTES_MAX)
        && std::fs::copy(path, path.with_extension("log.1")).is_ok()
        && let Ok(log) = std::fs::OpenOptions::new().write(true).open(path)
    {
        // A full disk shows elsewhere soon enough.
        let _ = log.set_len(0);
    }
}

/// Ends a process: politely, then by force; returns when it is gone.
pub fn end_process(pid: u32) -> io::Result<()> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for signal in [Signal::TERM, Signal::KILL] {
        match pidfd_send_signal(&process, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(END_TIMEOUT.as_secs()).expect("a few seconds"),
            tv_nsec: 0,
        };
        let mut ended = [PollFd::new(&process, PollFlags::IN)];
        if poll(&mut ended, Some(&timeout))? > 0 {
            return Ok(());
        }
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "the daemon does not end",
    ))
}
