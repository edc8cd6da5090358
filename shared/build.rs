//! Rebuilds this crate when a file is added to `migrations/`, which macros embed when they are compiled.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
