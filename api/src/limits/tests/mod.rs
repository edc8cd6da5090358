//! Request limits against a real database.

mod histories;
mod local_buckets;
mod model;
mod replicas;
