//! The admin API over a real socket, with an agent made of fixed answers.
