//! The example of docs/KINDS.md: a kind and its tests. `document.rs` compares.

mod invoice_remind;
mod test;
