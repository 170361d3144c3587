//! Durable state: one redb file in the state directory (design D7).
//!
//! Each record is JSON under a name. The file carries a schema version: newer state is refused by
//! name, older state is upgraded after a copy was put aside. A lock file keeps a second daemon away.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{Database, ReadableDatabase, TableDefinition, WriteTransaction};
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// All records, by name.
const RECORDS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("records");
/// Name of the record that holds the schema version.
const SCHEMA_KEY: &str = "schema";
/// Name of the state file.
pub const FILE_NAME: &str = "weft.redb";
/// Name of the lock file.
const LOCK_NAME: &str = "weft.lock";

/// How often and how long apart a lock is tried.
const LOCK_TRIES: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// How often a lock is looked at whose holder is ending.
const ENDING_TRIES: u32 = 100;

/// Turns state of one schema version into the next, within the transaction that does it all.
type Upgrade = fn(&WriteTransaction) -> Result<(), redb::Error>;

/// Step n upgrades from schema version n + 1. The schema version this program writes is one more
/// than their number.
const UPGRADES: &[Upgrade] = &[];

/// Open state of one daemon.
#[derive(Debug)]
pub struct Store {
    database: Database,
    schema: u32,
}

/// Exclusive use of a directory; ends when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the lock.
    #[error("{path} is in use by another daemon (process {pid})", path = path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other process, as it wrote it.
        pid: String,
    },
    /// Written by a later program.
    #[error(
        "state {path} has schema version {found}, this version of weft knows up to {known}: \
         use a newer weft, or move the file away to start afresh",
        path = path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A record does not parse.
    #[error("record {name} in the state is damaged: {cause}")]
    Record {
        /// Its name.
        name: String,
        /// Why.
        cause: serde_json::Error,
    },
    /// The file cannot be opened or written.
    #[error("state {path}: {cause}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file is not what we wrote.
    #[error(
        "state {path} cannot be opened: {cause}; if it is damaged, move it away to start afresh",
        path = path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: redb::Error,
    },
    /// The database refuses.
    #[error("state: {cause}")]
    Database {
        /// Why.
        cause: redb::Error,
    },
}

impl From<redb::Error> for StoreError {
    fn from(cause: redb::Error) -> Self {
        Self::Database { cause }
    }
}

/// How a record is kept.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    schema: u32,
    value: T,
}

impl Lock {
    /// Takes a directory, creating it if needed, for this process.
    pub fn take(directory: &Path) -> Result<Self, StoreError> {
        Self::take_named(directory, LOCK_NAME)
    }

    /// As `take`, with another lock file.
    pub fn take_named(directory: &Path, name: &str) -> Result<Self, StoreError> {
        create_directory(directory)?;
        let path = directory.join(name);
        let failed = |cause| StoreError::File {
            path: path.clone(),
            cause,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        if !try_lock(&file) {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let pid = pid.trim().to_owned();
            return Err(StoreError::InUse {
                path: directory.to_owned(),
                pid,
            });
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }

    /// The process that holds a directory, if any does. Waits for one that is ending: the kernel gives
    /// the locks of a killed process back some time after the process was last seen anywhere.
    pub fn holder(directory: &Path) -> Option<u32> {
        Self::holder_named(directory, LOCK_NAME)
    }

    /// As `holder`, with another lock file.
    pub fn holder_named(directory: &Path, name: &str) -> Option<u32> {
        let path = directory.join(name);
        for _ in 0..ENDING_TRIES {
            if !is_ending(lock_holder(&path)?) {
                break;
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        lock_holder(&path)
    }
}

/// The process that a held lock names.
fn lock_holder(path: &Path) -> Option<u32> {
    let mut file = File::open(path).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return None;
    }
    let mut pid = String::new();
    file.read_to_string(&mut pid).ok()?;
    pid.trim().parse().ok()
}

/// Whether a process is gone, or has given its memory back already.
fn is_ending(pid: u32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_err()
}

/// Somebody who merely asks for the holder has the lock for a moment; that must not count.
fn try_lock(file: &File) -> bool {
    for _ in 0..LOCK_TRIES {
        if flock(file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return true;
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    false
}

/// Creates a directory that only its owner may enter.
pub fn create_directory(directory: &Path) -> Result<(), StoreError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|cause| StoreError::File {
            path: directory.to_owned(),
            cause,
        })
}

impl Store {
    /// Opens or creates the state in a directory whose lock the caller holds.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_with(directory, UPGRADES)
    }

    fn open_with(directory: &Path, upgrades: &[Upgrade]) -> Result<Self, StoreError> {
        let known = 1 + u32::try_from(upgrades.len()).expect("few upgrades");
        let path = directory.join(FILE_NAME);
        let mut store = Self {
            database: create(&path)?,
            schema: known,
        };
        let found: u32 = store.get(SCHEMA_KEY)?.unwrap_or(0);
        if found > known {
            return Err(StoreError::Newer { path, found, known });
        }
        if found == known {
            return Ok(store);
        }
        if found > 0 {
            drop(store);
            let backup = directory.join(format!("{FILE_NAME}.schema-{found}"));
            std::fs::copy(&path, &backup)
                .and_then(|_| File::open(&backup)?.sync_all())
                .map_err(|cause| StoreError::File {
                    path: backup,
                    cause,
                })?;
            store = Self {
                database: create(&path)?,
                schema: known,
            };
            tracing::info!(from = found, to = known, "upgrading state");
        }
        let transaction = store.database.begin_write().map_err(redb::Error::from)?;
        for upgrade in upgrades.iter().skip(found.saturating_sub(1) as usize) {
            if found > 0 {
                upgrade(&transaction)?;
            }
        }
        put_in(&transaction, SCHEMA_KEY, known, &known)?;
        transaction.commit().map_err(redb::Error::from)?;
        Ok(store)
    }

    /// Reads a record.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            let transaction = self.database.begin_read()?;
            let table = match transaction.open_table(RECORDS) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                other => other?,
            };
            Ok(table.get(name)?.map(|value| value.value().to_vec()))
        };
        let Some(bytes) = read()? else {
            return Ok(None);
        };
        serde_json::from_slice::<Envelope<T>>(&bytes)
            .map(|envelope| Some(envelope.value))
            .map_err(|cause| StoreError::Record {
                name: name.to_owned(),
                cause,
            })
    }

    /// Writes a record; durable when this returns.
    pub fn put<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(redb::Error::from)?;
        put_in(&transaction, name, self.schema, value)?;
        transaction.commit().map_err(redb::Error::from)?;
        Ok(())
    }
}

fn put_in<T: Serialize>(
    transaction: &WriteTransaction,
    name: &str,
    schema: u32,
    value: &T,
) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(&Envelope { schema, value }).expect("records always serialize");
    let write = || -> Result<(), redb::Error> {
        transaction
            .open_table(RECORDS)?
            .insert(name, bytes.as_slice())?;
        Ok(())
    };
    Ok(write()?)
}

fn create(path: &Path) -> Result<Database, StoreError> {
    Database::create(path).map_err(|error| StoreError::Open {
        path: path.to_owned(),
        cause: error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_a_dying_process_still_has_is_waited_for() {
        let directory = TestDirectory::new("dying");
        let mut child = std::process::Command::new("true").spawn().expect("spawn");
        let dead = child.id();
        child.wait().expect("wait");
        let lock = Lock::take(&directory.0).expect("take");
        assert_eq!(Lock::holder(&directory.0), Some(std::process::id()));
        std::fs::write(directory.0.join(LOCK_NAME), dead.to_string()).expect("write");
        let late = std::thread::spawn(move || {
            std::thread::sleep(LOCK_PAUSE * 5);
            drop(lock);
        });
        assert_eq!(Lock::holder(&directory.0), None);
        late.join().expect("no panic");
    }

    #[test]
    fn records_survive_reopening() {
        let directory = TestDirectory::new("records");
        let store = Store::open(&directory.0).expect("open");
        assert_eq!(store.get::<Vec<String>>("direct_peers").expect("get"), None);
        store
            .put("direct_peers", &vec!["a:1".to_owned()])
            .expect("put");
        drop(store);
        let store = Store::open(&directory.0).expect("open again");
        let peers = store.get::<Vec<String>>("direct_peers").expect("get");
        assert_eq!(peers, Some(vec!["a:1".to_owned()]));
    }

    #[test]
    fn newer_state_is_refused_by_name() {
        let directory = TestDirectory::new("newer");
        let store = Store::open(&directory.0).expect("open");
        store.put(SCHEMA_KEY, &7u32).expect("put");
        drop(store);
        let error = Store::open(&directory.0).expect_err("too new").to_string();
        assert!(error.contains("schema version 7"), "{error}");
        assert!(error.contains("weft.redb"), "{error}");
    }

    #[test]
    fn damaged_state_is_named_once() {
        let directory = TestDirectory::new("damaged");
        std::fs::write(directory.0.join(FILE_NAME), "garbage").expect("write");
        let error = anyhow::Error::from(Store::open(&directory.0).expect_err("damaged"));
        let text = format!("{error:#}");
        assert!(text.contains("weft.redb cannot be opened: "), "{text}");
        assert_eq!(text.matches("cannot be opened").count(), 1, "{text}");
        assert!(text.ends_with("move it away to start afresh"), "{text}");
    }

    #[test]
    fn older_state_is_upgraded_and_a_copy_kept() {
        fn rename(transaction: &WriteTransaction) -> Result<(), redb::Error> {
            let mut table = transaction.open_table(RECORDS)?;
            let old = table.remove("old")?.map(|value| value.value().to_vec());
            if let Some(bytes) = old {
                table.insert("new", bytes.as_slice())?;
            }
            Ok(())
        }
        let directory = TestDirectory::new("older");
        let store = Store::open(&directory.0).expect("open");
        store.put("old", &"text".to_owned()).expect("put");
        drop(store);
        let store = Store::open_with(&directory.0, &[rename]).expect("upgrade");
        assert_eq!(
            store.get::<String>("new").expect("get").as_deref(),
            Some("text")
        );
        assert_eq!(store.get::<u32>(SCHEMA_KEY).expect("get"), Some(2));
        assert!(directory.0.join("weft.redb.schema-1").exists());
    }

    #[test]
    fn a_second_daemon_is_told_who_has_the_state() {
        let directory = TestDirectory::new("lock");
        let lock = Lock::take(&directory.0).expect("free");
        assert_eq!(Lock::holder(&directory.0), Some(std::process::id()));
        let error = Lock::take(&directory.0).expect_err("taken").to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(lock);
        assert_eq!(Lock::holder(&directory.0), None);
        Lock::take(&directory.0).expect("free again");
    }

    /// A directory of this test, removed at its end.
    struct TestDirectory(PathBuf);

    impl TestDirectory {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("weft-store-test-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).expect("temporary directory");
            Self(path)
        }
    }

    impl Drop for TestDirectory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
