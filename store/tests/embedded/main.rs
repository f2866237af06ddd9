//! The embedded engine: what it promises, on a disk that loses power, fails, is full, or is damaged.
#![allow(clippy::disallowed_methods, reason = "tests read and write files, and have to end")]

mod conformance;
mod copies;
mod crash;
mod damage;
mod draws;
mod faults;
mod model;
mod sim;
mod stopped;
mod support;
