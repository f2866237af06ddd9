//! REST: the machine by hand under virtual time, and the HTTP server over real sockets. Both speak to a router that is
//! played here.

mod failures;
mod http;
mod reading;
mod refusals;
mod rig;
mod writing;
