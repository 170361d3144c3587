//! What came of what happened: records first, then all else.

use std::collections::VecDeque;

use wire::LinkId;

use crate::output::{Output, Record};

/// What a node asked for since the last turn was taken.
///
/// The outputs can be had only in exchange for the records: nothing leaves that a restart could
/// forget.
#[must_use = "what is not done is lost"]
#[derive(Debug, Default)]
pub struct Turn {
    records: Vec<Record>,
    outputs: VecDeque<Output>,
}

impl Turn {
    /// A turn of these, for who tests a shell.
    pub fn new(records: Vec<Record>, outputs: Vec<Output>) -> Self {
        Self {
            records,
            outputs: outputs.into(),
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.outputs.is_empty()
    }

    /// Whether something is to be sent on a link.
    pub fn sends_on(&self, link: LinkId) -> bool {
        let mut outputs = self.outputs.iter();
        outputs.any(|output| matches!(output, Output::Send { link: on, .. } if *on == link))
    }

    /// Has the records made durable, all of them together, and gives out what is to be done then, in
    /// order. When they cannot be made durable, nothing is to be done.
    pub fn durable<E>(
        self,
        keep: impl FnOnce(Vec<Record>) -> Result<(), E>,
    ) -> Result<VecDeque<Output>, E> {
        if !self.records.is_empty() {
            keep(self.records)?;
        }
        Ok(self.outputs)
    }

    pub(crate) fn keep(&mut self, record: Record) {
        self.records.push(record);
    }

    pub(crate) fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Reply, RequestId};

    fn turn() -> Turn {
        let reply = Output::Reply {
            id: RequestId(1),
            reply: Reply::Done,
        };
        let mut turn = Turn::default();
        turn.push(reply);
        turn.keep(Record::DirectPeers(vec!["a".to_owned()]));
        turn
    }

    #[test]
    fn outputs_come_out_once_the_records_are_kept() {
        let mut kept = Vec::new();
        let outputs = turn().durable(|records| {
            kept = records;
            Ok::<(), ()>(())
        });
        assert_eq!(kept, [Record::DirectPeers(vec!["a".to_owned()])]);
        assert_eq!(outputs.map(|outputs| outputs.len()), Ok(1));
    }

    #[test]
    fn no_output_comes_out_when_the_records_cannot_be_kept() {
        let error = turn().durable(|_| Err("disk full")).err();
        assert_eq!(error, Some("disk full"));
    }

    #[test]
    fn a_turn_without_records_waits_for_no_disk() {
        let turn = Turn::new(Vec::new(), Vec::new());
        assert!(turn.is_empty());
        let outputs = turn.durable(|_| Err("there is nothing to keep"));
        assert!(outputs.is_ok_and(|outputs| outputs.is_empty()));
    }
}
