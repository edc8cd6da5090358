//! The kinds, run by the kit against real receivers and a real database.

mod http_request;
mod maintenance_retention;
mod webhook_deliver;
