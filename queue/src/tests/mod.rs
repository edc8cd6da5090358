//! Packing never shows: what is claimed and settled together fares as what is claimed and settled
//! alone.

mod histories;
mod merge;
mod poison;
mod settle;
