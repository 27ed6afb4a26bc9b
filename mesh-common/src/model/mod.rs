//! The mesh as plain data.
