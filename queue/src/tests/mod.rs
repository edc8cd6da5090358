//! Tests that packing jobs into rows does not change what happens to each job.

mod histories;
mod merge;
mod poison;
mod settle;
