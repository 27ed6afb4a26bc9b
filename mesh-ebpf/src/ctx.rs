//! Access to context fields.
//!
//! The verifier accepts a context access only at a constant offset from the unmodified context pointer, and the
//! optimiser likes to merge the accesses of two branches into one at a computed offset. Volatile accesses stay
//! where, and as, they are written. [`field!`] reads one field of a context, [`set!`] writes one.

/// Reads `(*$ctx).$field`. Needs an unsafe block: the pointer must be the program's context.
macro_rules! field {
    ($ctx:expr, $($field:tt)+) => {
        core::ptr::read_volatile(&raw const (*$ctx).$($field)+)
    };
}

/// Writes `(*$ctx).$field`. Needs an unsafe block: the field must be writable in the program's hook.
macro_rules! set {
    ($ctx:expr, $($field:ident)+ $([$index:literal])?, $value:expr) => {
        core::ptr::write_volatile(&raw mut (*$ctx).$($field)+ $([$index])?, $value)
    };
}

pub(crate) use {field, set};
