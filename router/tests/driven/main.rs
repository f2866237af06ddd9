//! The router's machines, driven by hand under virtual time.

mod commit;
mod hand;
mod hearing;
mod random;
mod registering;
