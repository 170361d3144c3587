//! What a merge takes, leaves out and refuses.
