//! Our RFC 6455 codec against its rules, against tungstenite, and against itself cut differently.

mod drive;
mod oracle;
mod properties;
mod rules;
