//! What filters do.
