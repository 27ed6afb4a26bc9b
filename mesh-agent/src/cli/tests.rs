//! What the commands print, from fixed answers, and what they take.
