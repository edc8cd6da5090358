//! The example of docs/KINDS.md: a kind and its tests. `document.rs` compares.

#[expect(unreachable_pub, reason = "written as in the crate of its domain")]
mod invoice_remind;
mod test;
