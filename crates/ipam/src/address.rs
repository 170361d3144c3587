//! Addresses, ranges and subnets.
