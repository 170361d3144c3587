//! Variables of the environment that no flag stands for. Those that stand for a flag are declared with it
//! (`env` in `args`).

/// A variable and what it means.
pub(crate) struct Variable {
    /// Its name.
    pub(crate) name: &'static str,
    /// One line of help; empty hides it.
    pub(crate) help: &'static str,
}

/// Where commands find the daemon; the daemon listens there too, unless told otherwise by flag.
pub(crate) const HTTP_ADDR: &str = "WEAVE_HTTP_ADDR";
/// The daemon's own name for "off": here, unlike elsewhere, an empty value is one.
pub(crate) const STATUS_ADDR: &str = "WEAVE_STATUS_ADDR";

/// Where durable state is.
pub(crate) const STATE_DIR: Variable = Variable {
    name: "WEFT_STATE_DIR",
    help: "directory of durable state (/var/lib/weft)",
};
/// Where run files are.
pub(crate) const RUN_DIR: Variable = Variable {
    name: "WEFT_RUN_DIR",
    help: "directory of control socket, lock and log (/run/weft)",
};
/// Logs much.
pub(crate) const DEBUG: Variable = Variable {
    name: "WEAVE_DEBUG",
    help: "any value: as --log-level debug",
};
/// Holds the protocol version down, so that what peers of old get can be tried.
pub(crate) const MAX_PROTOCOL_VERSION: Variable = Variable {
    name: "WEFT_MAX_PROTOCOL_VERSION",
    help: "",
};
/// To rehearse, between Wefts, what they do with originals. Nothing a user has to choose.
pub(crate) const SLEEVE_CIPHER: Variable = Variable {
    name: "WEFT_SLEEVE_CIPHER",
    help: "",
};

/// All of them.
pub(crate) const VARIABLES: &[Variable] = &[
    STATE_DIR,
    RUN_DIR,
    DEBUG,
    MAX_PROTOCOL_VERSION,
    SLEEVE_CIPHER,
];

impl Variable {
    /// Its value, unless empty.
    pub(crate) fn read(&self) -> Option<String> {
        read(self.name)
    }
}

/// The value of a variable, unless empty.
pub(crate) fn read(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
