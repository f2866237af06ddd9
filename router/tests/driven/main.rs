//! The router's machines, driven by hand under virtual time.

mod borders;
mod cache;
mod commit;
mod devices;
mod hand;
mod hearing;
mod membership;
mod presence;
mod random;
mod rates;
mod receipts;
mod registering;
mod typing;
