//! Durable state: one redb file in the state directory (design D7).
//!
//! Each record is JSON under a name. The file carries a schema version: newer state is refused by
//! name, older state is upgraded after a copy was put aside. A lock file keeps a second daemon away.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipam::rows::RowWrite;
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
    path: PathBuf,
    database: Database,
    schema: u32,
    commits: AtomicU64,
}

/// Records that become durable together or not at all. A later one of a name replaces an earlier
/// one.
#[derive(Debug)]
pub struct Batch {
    schema: u32,
    records: BTreeMap<String, Option<Vec<u8>>>,
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
    #[error(
        "record {name} in state {path} is damaged: {cause}; 'weft reset --force' removes the state, \
         and the next launch starts afresh",
        path = path.display()
    )]
    Record {
        /// The file.
        path: PathBuf,
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
        "state {path} cannot be opened: {cause}; if it is damaged, 'weft reset --force' removes it, \
         and the next launch starts afresh",
        path = path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: redb::Error,
    },
    /// The database cannot be read.
    #[error(
        "state {path} cannot be read: {cause}; if it is damaged, 'weft reset --force' removes it, \
         and the next launch starts afresh",
        path = path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: redb::Error,
    },
    /// The database cannot be written: the disk is full or read-only, say.
    #[error(
        "state {path} cannot be written: {cause}; make room for it and make it writable, then \
         launch again",
        path = path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: redb::Error,
    },
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

    /// A store on another kind of disk, which is empty.
    #[cfg(test)]
    pub(crate) fn on(disk: impl redb::StorageBackend) -> Result<Self, redb::DatabaseError> {
        Ok(Self {
            path: PathBuf::from("memory"),
            database: Database::builder().create_with_backend(disk)?,
            schema: 1,
            commits: AtomicU64::new(0),
        })
    }

    fn open_with(directory: &Path, upgrades: &[Upgrade]) -> Result<Self, StoreError> {
        let known = 1 + u32::try_from(upgrades.len()).expect("few upgrades");
        let path = directory.join(FILE_NAME);
        let mut store = Self::of(&path, known)?;
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
            store = Self::of(&path, known)?;
            tracing::info!(from = found, to = known, "upgrading state");
        }
        let mut batch = store.batch();
        batch.put(SCHEMA_KEY, &known);
        store.transact(|transaction| {
            for upgrade in upgrades.iter().skip(found.saturating_sub(1) as usize) {
                if found > 0 {
                    upgrade(transaction)?;
                }
            }
            write(transaction, &batch)
        })?;
        Ok(store)
    }

    fn of(path: &Path, schema: u32) -> Result<Self, StoreError> {
        Ok(Self {
            path: path.to_owned(),
            database: create(path)?,
            schema,
            commits: AtomicU64::new(0),
        })
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
        let Some(bytes) = read().map_err(|cause| self.unreadable(cause))? else {
            return Ok(None);
        };
        self.value(name, &bytes).map(Some)
    }

    /// The records whose names begin with `prefix`, as JSON, ascending by name.
    pub fn rows(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let read = || -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
            let transaction = self.database.begin_read()?;
            let table = match transaction.open_table(RECORDS) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                other => other?,
            };
            let mut found = Vec::new();
            for record in table.range(prefix..)? {
                let (name, value) = record?;
                if !name.value().starts_with(prefix) {
                    break;
                }
                found.push((name.value().to_owned(), value.value().to_vec()));
            }
            Ok(found)
        };
        let found = read().map_err(|cause| self.unreadable(cause))?;
        let parsed = found.into_iter().map(|(name, bytes)| {
            let value: serde_json::Value = self.value(&name, &bytes)?;
            Ok((name, value.to_string().into_bytes()))
        });
        parsed.collect()
    }

    /// Writes a record; durable when this returns.
    pub fn put<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StoreError> {
        let mut batch = self.batch();
        batch.put(name, value);
        self.commit(&batch)
    }

    /// Nothing to be written yet.
    pub fn batch(&self) -> Batch {
        Batch {
            schema: self.schema,
            records: BTreeMap::new(),
        }
    }

    /// Writes all records of a batch, in one transaction and with one wait for the disk; they are
    /// durable when this returns. On an error none is, and the file takes no more.
    pub fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        if batch.records.is_empty() {
            return Ok(());
        }
        self.transact(|transaction| write(transaction, batch))
    }

    /// Transactions that became durable since the file was opened.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    fn transact(
        &self,
        work: impl Fn(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let run = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            work(&transaction)?;
            transaction.commit()?;
            Ok(())
        };
        run().map_err(|cause| StoreError::Write {
            path: self.path.clone(),
            cause,
        })?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn value<T: DeserializeOwned>(&self, name: &str, bytes: &[u8]) -> Result<T, StoreError> {
        serde_json::from_slice::<Envelope<T>>(bytes)
            .map(|envelope| envelope.value)
            .map_err(|cause| StoreError::Record {
                path: self.path.clone(),
                name: name.to_owned(),
                cause,
            })
    }

    fn unreadable(&self, cause: redb::Error) -> StoreError {
        StoreError::Read {
            path: self.path.clone(),
            cause,
        }
    }
}

impl Batch {
    /// Adds a record.
    pub fn put<T: Serialize>(&mut self, name: &str, value: &T) {
        let schema = self.schema;
        let bytes =
            serde_json::to_vec(&Envelope { schema, value }).expect("records always serialize");
        self.records.insert(name.to_owned(), Some(bytes));
    }

    /// Adds rows of a core, whose values are JSON already.
    pub fn apply(&mut self, changes: Vec<RowWrite>) {
        for RowWrite { name, value } in changes {
            let value = value.map(|value| {
                let head = format!("{{\"schema\":{},\"value\":", self.schema);
                [head.as_bytes(), &value, b"}"].concat()
            });
            self.records.insert(name, value);
        }
    }
}

fn write(transaction: &WriteTransaction, batch: &Batch) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(RECORDS)?;
    for (name, value) in &batch.records {
        match value {
            Some(bytes) => table.insert(name.as_str(), bytes.as_slice())?,
            None => table.remove(name.as_str())?,
        };
    }
    Ok(())
}

/// Opens or creates the file, and reads all of it: later reads find nothing damaged.
fn create(path: &Path) -> Result<Database, StoreError> {
    let is_old = std::fs::metadata(path).is_ok_and(|found| found.len() > 0);
    let open = || -> Result<Database, redb::DatabaseError> {
        let mut database = Database::create(path)?;
        if is_old {
            database.check_integrity()?;
        }
        Ok(database)
    };
    let opened = without_panic(open).unwrap_or_else(|| {
        let text = "a page is damaged".to_owned();
        Err(redb::StorageError::Corrupted(text).into())
    });
    opened.map_err(|error| StoreError::Open {
        path: path.to_owned(),
        cause: error.into(),
    })
}

/// Does work whose library panics about damaged files; `None` if it did. Runs while the process
/// starts, when nobody else has a panic to report.
fn without_panic<T>(work: impl FnOnce() -> T) -> Option<T> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    std::panic::set_hook(hook);
    done.ok()
}

#[cfg(test)]
mod tests;
