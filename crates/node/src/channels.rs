//! Gossip channels and their owners: each channel has one.

/// A part of a node that owns gossip channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Address allocation, by one of its channels.
    Allocation(AllocationChannel),
}

/// A channel of address allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AllocationChannel {
    /// The ring, as originals speak of it.
    Ring,
    /// What only Wefts say to each other.
    Weft,
}

impl AllocationChannel {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::Ring, Self::Weft];

    /// What it is called on the wire.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ring => ipam::CHANNEL,
            Self::Weft => ipam::WEFT_CHANNEL,
        }
    }
}

impl Owner {
    /// Who owns the channel of this name.
    pub(crate) fn of(channel: &str) -> Option<Self> {
        let mut all = AllocationChannel::ALL.into_iter();
        all.find(|own| own.name() == channel).map(Self::Allocation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_has_one_owner_and_a_strange_one_none() {
        for channel in AllocationChannel::ALL {
            assert_eq!(Owner::of(channel.name()), Some(Owner::Allocation(channel)));
        }
        assert_eq!(Owner::of("topology"), None);
    }
}
