//! `/metrics`, `/healthz` and `/readyz` of a running `serve` on a simulated node.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::float_cmp,
    reason = "a test may fail loudly, and compares whole numbers"
)]

mod clients;
#[path = "../common/mod.rs"]
mod common;
mod counts;
mod documented;
mod listener;
mod scrape;
mod states;
