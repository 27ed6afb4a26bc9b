//! The table against the text of the Gateway API, and what surrounds it.

mod attach;
mod cost;
mod kit;
mod naive;
mod oracle;
mod status;
mod table;
