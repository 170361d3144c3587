//! Tests of the durable state, each in a directory of its own.

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
    assert!(text.ends_with("the next launch starts afresh"), "{text}");
}

#[test]
fn damage_anywhere_in_the_file_is_an_error_or_harms_no_record() {
    let directory = TestDirectory::new("pages");
    let store = Store::open(&directory.0).expect("open");
    let value = |number: usize| format!("value {number} {}", "x".repeat(100));
    for number in 0..200 {
        store
            .put(&format!("row/{number:03}"), &value(number))
            .expect("put");
    }
    drop(store);
    let file = directory.0.join(FILE_NAME);
    let whole = std::fs::read(&file).expect("read");
    let mut refused = 0;
    for at in (0..whole.len()).step_by(4096) {
        let mut bytes = whole.clone();
        let end = (at + 4096).min(bytes.len());
        bytes[at..end].fill(0xa5);
        std::fs::write(&file, bytes).expect("write");
        match Store::open(&directory.0) {
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("weft.redb"), "{text}");
                assert!(text.contains("weft reset"), "{text}");
                refused += 1;
            }
            Ok(store) => {
                for number in 0..200 {
                    let found = store.get::<String>(&format!("row/{number:03}"));
                    assert_eq!(found.expect("get"), Some(value(number)), "page at {at}");
                }
            }
        }
    }
    assert!(refused > 3, "{refused} damaged files were refused");
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

fn change(name: &str, value: Option<&str>) -> RowWrite {
    RowWrite {
        name: name.to_owned(),
        value: value.map(|value| value.as_bytes().to_vec()),
    }
}

#[test]
fn a_batch_is_one_transaction_whatever_is_in_it() {
    let directory = TestDirectory::new("batch");
    let store = Store::open(&directory.0).expect("open");
    let before = store.commits();
    let mut batch = store.batch();
    batch.put("direct_peers", &vec!["a".to_owned()]);
    for n in 0..100 {
        let row = format!("ipam/owned/{n:03}");
        batch.apply(vec![change(&row, Some("{\"ident\":\"c\"}"))]);
    }
    batch.apply(vec![change("ipam/owned/007", None)]);
    store.commit(&batch).expect("commit");
    assert_eq!(store.commits(), before + 1);
    store.commit(&store.batch()).expect("nothing to do");
    assert_eq!(store.commits(), before + 1, "nothing to wait for");
    drop(store);
    let store = Store::open(&directory.0).expect("open again");
    let rows = store.rows("ipam/").expect("rows");
    assert_eq!(rows.len(), 99);
    assert_eq!(rows[0].0, "ipam/owned/000");
    assert_eq!(rows[0].1, b"{\"ident\":\"c\"}");
    assert!(store.rows("ipam/owned/007").expect("rows").is_empty());
    let peers = store.get::<Vec<String>>("direct_peers").expect("get");
    assert_eq!(peers, Some(vec!["a".to_owned()]));
}

#[test]
fn rows_are_those_of_the_prefix_and_removable() {
    let directory = TestDirectory::new("rows");
    let store = Store::open(&directory.0).expect("open");
    let mut batch = store.batch();
    let names = ["ipaa", "ipam/ring/10.32.0.0", "ipam/header", "ipan"];
    batch.apply(names.map(|name| change(name, Some("1"))).to_vec());
    store.commit(&batch).expect("commit");
    let names = |store: &Store| -> Vec<String> {
        let rows = store.rows("ipam/").expect("rows");
        rows.into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names(&store), ["ipam/header", "ipam/ring/10.32.0.0"]);
    let mut batch = store.batch();
    batch.apply(vec![change("ipam/header", None)]);
    store.commit(&batch).expect("commit");
    assert_eq!(names(&store), ["ipam/ring/10.32.0.0"]);
}

#[test]
fn a_damaged_row_is_named_with_what_to_do() {
    let directory = TestDirectory::new("row");
    let store = Store::open(&directory.0).expect("open");
    let mut batch = store.batch();
    batch.apply(vec![change("ipam/header", Some("{"))]);
    store.commit(&batch).expect("commit");
    let error = store.rows("ipam/").expect_err("damaged").to_string();
    assert!(error.starts_with("record ipam/header in state "), "{error}");
    assert!(error.contains("'weft reset --force'"), "{error}");
}
