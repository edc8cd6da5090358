//! Request limits against a real database.

mod histories;
mod lines;
mod model;
mod replicas;
