//! Views of the node for readers on other tasks.
//!
//! The driver makes a view at the end of a turn if somebody wants one newer than the one published,
//! so at most one a turn however many readers there are, and none while nobody reads. A view stays
//! published until the node has changed and somebody wants to know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// A view and how often the node had changed by then.
type Dated<T> = Option<(u64, Arc<T>)>;

/// The driver's end.
#[derive(Debug)]
pub(super) struct Publisher<T> {
    wanted: Arc<AtomicBool>,
    newest: watch::Sender<Dated<T>>,
}

/// A reader's end.
#[derive(Debug)]
pub(super) struct Reader<T> {
    wanted: Arc<AtomicBool>,
    newest: watch::Receiver<Dated<T>>,
}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Self {
            wanted: Arc::clone(&self.wanted),
            newest: self.newest.clone(),
        }
    }
}

/// Both ends of a view that was never made.
pub(super) fn published<T>() -> (Publisher<T>, Reader<T>) {
    let wanted = Arc::default();
    let (sender, newest) = watch::channel(None);
    let reader = Reader {
        wanted: Arc::clone(&wanted),
        newest,
    };
    let newest = sender;
    (Publisher { wanted, newest }, reader)
}

impl<T> Publisher<T> {
    /// Publishes a view if somebody wants one and the node has changed since the last.
    pub(super) fn refresh(&self, changes: u64, make: impl FnOnce() -> T) {
        if self.wanted.swap(false, Ordering::AcqRel) && !is_of(&self.newest.borrow(), changes) {
            let _ = self.newest.send_replace(Some((changes, Arc::new(make()))));
        }
    }
}

#[cfg(test)]
impl<T> Publisher<T> {
    /// What is published.
    pub(super) fn newest(&self) -> Option<Arc<T>> {
        let newest = self.newest.borrow();
        newest.as_ref().map(|(_, view)| Arc::clone(view))
    }
}

impl<T> Reader<T> {
    /// A view of the node as it was after so many changes, or later. `wake` makes the driver take a
    /// turn, and is called only if it has to. `None` once the driver is gone.
    pub(super) async fn read(&self, changes: u64, wake: impl FnOnce()) -> Option<Arc<T>> {
        let mut newest = self.newest.clone();
        // Kept until there is another, so that not the driver but who reads frees what only it
        // holds: entries of peers that have changed since.
        let stale = newest.borrow().clone();
        if !is_of(&stale, changes) {
            self.wanted.store(true, Ordering::Release);
            wake();
        }
        let found = newest.wait_for(|view| is_of(view, changes)).await;
        let view = found.ok()?.as_ref().map(|(_, view)| Arc::clone(view));
        drop(stale);
        view
    }
}

fn is_of<T>(view: &Dated<T>, changes: u64) -> bool {
    view.as_ref().is_some_and(|(at, _)| *at >= changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_view_is_made_only_if_it_is_wanted_and_the_node_has_changed() {
        let (publisher, reader) = published();
        publisher.refresh(1, || unreachable!("nobody wants one"));
        let (view, ()) = tokio::join!(reader.read(1, || {}), async {
            publisher.refresh(1, || "first");
        });
        assert_eq!(view.as_deref(), Some(&"first"));
        let again = reader.read(1, || unreachable!("it is there")).await;
        assert_eq!(again.as_deref(), Some(&"first"));
        let (view, ()) = tokio::join!(reader.read(2, || {}), async {
            publisher.refresh(3, || "second");
        });
        assert_eq!(view.as_deref(), Some(&"second"));
    }

    #[tokio::test]
    async fn readers_that_come_together_share_one_view() {
        let (publisher, reader) = published();
        let mut made = 0;
        let (one, two, ()) = tokio::join!(reader.read(1, || {}), reader.read(1, || {}), async {
            for _ in 0..2 {
                publisher.refresh(1, || made += 1);
            }
        });
        assert!(Arc::ptr_eq(&one.unwrap(), &two.unwrap()));
        assert_eq!(made, 1);
    }

    #[tokio::test]
    async fn who_reads_frees_the_view_before_and_not_the_driver() {
        let (publisher, reader) = published();
        let old = Arc::new(());
        let held = Arc::clone(&old);
        tokio::join!(reader.read(1, || {}), async {
            publisher.refresh(1, || Some(held));
        });
        tokio::join!(reader.read(2, || {}), async {
            publisher.refresh(2, || None);
            assert_eq!(Arc::strong_count(&old), 2);
        });
        assert_eq!(Arc::strong_count(&old), 1);
    }

    #[tokio::test]
    async fn a_reader_does_not_wait_for_a_driver_that_is_gone() {
        let (publisher, reader) = published::<()>();
        drop(publisher);
        assert_eq!(reader.read(1, || {}).await, None);
    }
}
