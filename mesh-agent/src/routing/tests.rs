//! Which rule leads which request.
