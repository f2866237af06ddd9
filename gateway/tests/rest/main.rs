//! REST: the machine by hand under virtual time, and the HTTP server over real sockets. Both speak to a router that is
//! played here.

mod changes;
mod devices;
mod documents;
mod examples;
mod failures;
mod http;
mod moving;
#[path = "../owners/mod.rs"]
mod owners;
mod page;
mod pumps;
mod reading;
mod refusals;
mod rig;
mod schema;
mod writing;
