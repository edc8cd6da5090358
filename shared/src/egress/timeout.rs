//! Time limits of outbound requests.

use std::time::Duration;

/// The longest a request can take, whatever its caller sets: the longest a job can run.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest a connection can take to open: name resolution, TCP and TLS together.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
