//! This process and the ones it starts: a passphrase taken out of the process list, sessions.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Overwrites a secret among this process's arguments, so that the process list no longer shows it;
/// `true` if it was there.
///
/// Finds `SECRET` as an argument of its own and at the end of `--flag=SECRET`. What is left does not
/// tell its length. Read the arguments before.
pub fn scrub_argument(secret: &str) -> io::Result<bool> {
    if secret.is_empty() {
        return Ok(false);
    }
    let (start, length) = argument_area(&fs::read_to_string("/proc/self/stat")?)?;
    // The kernel lets a process write its own memory through this file; no pointer is needed.
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/proc/self/mem")?;
    let mut bytes = vec![0; length];
    memory.read_exact_at(&mut bytes, start)?;
    let found = scrub(&mut bytes, secret.as_bytes());
    if found {
        memory.write_all_at(&bytes, start)?;
    }
    Ok(found)
}

/// Starts a program in a session of its own, so that it outlives the terminal and its signals.
pub fn spawn_session(command: &mut Command) -> io::Result<Child> {
    // SAFETY: between fork and exec only `setsid` runs, which is async-signal-safe and allocates
    // nothing.
    unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into)) };
    command.stdin(Stdio::null()).spawn()
}

/// Leaves the terminal this process was started from: new session, root directory, no input.
///
/// A process that leads its group already, as one started by a service manager, stays where it is.
pub fn detach_from_terminal() -> io::Result<()> {
    match rustix::process::setsid() {
        Ok(_) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    std::env::set_current_dir("/")?;
    let null = File::open("/dev/null")?;
    // SAFETY: both descriptors are open for the length of the call and nothing is borrowed.
    if unsafe { libc::dup2(null.as_raw_fd(), libc::STDIN_FILENO) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Start and length of the argument area, fields 48 and 49 of `/proc/PID/stat` (`proc(5)`).
fn argument_area(stat: &str) -> io::Result<(u64, usize)> {
    // The second field is a name in parentheses that may contain anything.
    let rest = stat.rsplit_once(')').map(|(_, rest)| rest);
    let mut fields = rest
        .into_iter()
        .flat_map(str::split_ascii_whitespace)
        .skip(FIELDS_BETWEEN);
    let mut number = || fields.next().and_then(|f| f.parse::<u64>().ok());
    let area = number().zip(number()).and_then(|(start, end)| {
        let length = usize::try_from(end.checked_sub(start)?).ok()?;
        (start > 0 && length <= MAX_ARGUMENT_BYTES).then_some((start, length))
    });
    area.ok_or_else(|| io::Error::other("/proc/self/stat does not tell the argument area"))
}

/// Blanks every argument that is or ends with the secret; arguments end with a zero byte.
fn scrub(arguments: &mut [u8], secret: &[u8]) -> bool {
    let mut found = false;
    for argument in arguments.split_mut(|b| *b == 0) {
        let Some(start) = argument.len().checked_sub(secret.len()) else {
            continue;
        };
        let is_value = start == 0 || argument[start - 1] == b'=';
        if is_value && &argument[start..] == secret {
            argument[start..].fill(0);
            argument[start] = b'*';
            found = true;
        }
    }
    found
}

/// Fields 3 to 47 lie between the program name and the argument area.
const FIELDS_BETWEEN: usize = 45;
/// Far above what the kernel accepts for a command line.
const MAX_ARGUMENT_BYTES: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_blanked_wherever_it_is_a_value() {
        let mut area =
            b"weft\0--password\0s3cret\0--password=s3cret\0s3cretive\0xs3cret\0".to_vec();
        assert!(scrub(&mut area, b"s3cret"));
        let expected =
            b"weft\0--password\0*\0\0\0\0\0\0--password=*\0\0\0\0\0\0s3cretive\0xs3cret\0";
        assert_eq!(area, expected);
        assert!(!scrub(&mut area, b"s3cret"));
    }

    #[test]
    fn a_process_name_with_parentheses_does_not_confuse_the_fields() {
        let fields: Vec<_> = (3..=52).map(|n| n.to_string()).collect();
        let stat = format!("1 (a ) b) {}\n", fields.join(" "));
        assert_eq!(argument_area(&stat).unwrap(), (48, 1));
        for bad in ["", "1 (x) 2 3", "no parentheses"] {
            assert!(argument_area(bad).is_err());
        }
    }

    #[test]
    fn our_own_arguments_are_reachable() {
        assert!(!scrub_argument("no argument of a test says this").unwrap());
    }
}
