//! x
pub mod balance;
pub mod config;
pub mod state;
