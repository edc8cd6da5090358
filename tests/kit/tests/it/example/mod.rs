//! The example of docs/KINDS.md: a kind and its tests. `document.rs` compares.

#[expect(
    unreachable_pub,
    reason = "it stands here as it would in jobs/src/kinds"
)]
mod invoice_remind;
mod test;
