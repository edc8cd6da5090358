//! Tables of all routes; a test fails when one is missing.

/// Every route that requires a scope, with well-formed ids.
pub(super) const ROUTES: &[(&str, &str, &str)] = &[
    ("GET", "/v1/jobs", "jobs:read"),
    ("POST", "/v1/jobs", "jobs:write"),
    ("POST", "/v1/jobs/batch", "jobs:write"),
    ("POST", "/v1/jobs/bulk", "jobs:write"),
    ("GET", "/v1/jobs/job_0000000000500", "jobs:read"),
    ("GET", "/v1/jobs/job_0000000000500/attempts", "jobs:read"),
    ("GET", "/v1/jobs/job_0000000000500/explain", "jobs:read"),
    ("POST", "/v1/jobs/job_0000000000500/cancel", "jobs:write"),
    ("POST", "/v1/jobs/job_0000000000500/retry", "jobs:write"),
    (
        "POST",
        "/v1/jobs/job_0000000000500/reschedule",
        "jobs:write",
    ),
    ("GET", "/v1/queues", "jobs:read"),
    ("GET", "/v1/workers", "jobs:read"),
    ("GET", "/v1/stats", "jobs:read"),
    ("PUT", "/v1/queues/none", "queues:manage"),
    ("POST", "/v1/queues/none/pause", "queues:manage"),
    ("POST", "/v1/queues/none/resume", "queues:manage"),
    ("GET", "/v1/queues/none/lanes", "jobs:read"),
    ("PUT", "/v1/queues/none/lanes", "queues:manage"),
    ("PUT", "/v1/queues/none/lanes/key", "queues:manage"),
    (
        "GET",
        "/v1/tenants/ten_01h455vb4pex5vsknk084sn02q/limits",
        "jobs:read",
    ),
    (
        "PUT",
        "/v1/tenants/ten_01h455vb4pex5vsknk084sn02q/limits",
        "limits:manage",
    ),
    (
        "POST",
        "/v1/tenants/ten_01h455vb4pex5vsknk084sn02q/pause",
        "platform:admin",
    ),
    (
        "POST",
        "/v1/tenants/ten_01h455vb4pex5vsknk084sn02q/resume",
        "platform:admin",
    ),
    ("GET", "/v1/tenants", "tenant:admin"),
    ("POST", "/v1/tenants", "platform:admin"),
    (
        "GET",
        "/v1/tenants/ten_01h455vb4pex5vsknk084sn02q",
        "tenant:admin",
    ),
    (
        "PATCH",
        "/v1/tenants/ten_01h455vb4pex5vsknk084sn02q",
        "tenant:admin",
    ),
    (
        "GET",
        "/v1/tenants/ten_01h455vb4pex5vsknk084sn02q/export",
        "tenant:admin",
    ),
    (
        "POST",
        "/v1/tenants/ten_01h455vb4pex5vsknk084sn02q/erase",
        "platform:admin",
    ),
    ("POST", "/v1/enterprise/setup", "platform:admin"),
    (
        "GET",
        "/v1/enterprise/status/ten_01h455vb4pex5vsknk084sn02q",
        "tenant:admin",
    ),
    ("GET", "/v1/api-keys", "keys:manage"),
    ("POST", "/v1/api-keys", "keys:manage"),
    (
        "GET",
        "/v1/api-keys/key_01h455vb4pex5vsknk084sn02q",
        "keys:manage",
    ),
    (
        "PATCH",
        "/v1/api-keys/key_01h455vb4pex5vsknk084sn02q",
        "keys:manage",
    ),
    (
        "DELETE",
        "/v1/api-keys/key_01h455vb4pex5vsknk084sn02q",
        "keys:manage",
    ),
    (
        "POST",
        "/v1/api-keys/key_01h455vb4pex5vsknk084sn02q/rotate",
        "keys:manage",
    ),
    ("GET", "/v1/audit-logs", "audit:read"),
    ("GET", "/v1/audit-logs/verify", "audit:read"),
    (
        "PUT",
        "/v1/api-keys/key_01h455vb4pex5vsknk084sn02q/limits",
        "platform:admin",
    ),
    // Any of these scopes is enough.
    ("GET", "/v1/usage", "jobs:read|tenant:admin"),
    ("POST", "/v1/events", "jobs:write"),
    ("GET", "/v1/event-types", "webhooks:read"),
    ("POST", "/v1/event-types", "webhooks:manage"),
    ("GET", "/v1/event-types/none", "webhooks:read"),
    ("GET", "/v1/event-types/none/versions", "webhooks:read"),
    ("GET", "/v1/webhook-endpoints", "webhooks:read"),
    ("POST", "/v1/webhook-endpoints", "webhooks:manage"),
    (
        "GET",
        "/v1/webhook-endpoints/ep_01h455vb4pex5vsknk084sn02q",
        "webhooks:read",
    ),
    (
        "PATCH",
        "/v1/webhook-endpoints/ep_01h455vb4pex5vsknk084sn02q",
        "webhooks:manage",
    ),
    (
        "DELETE",
        "/v1/webhook-endpoints/ep_01h455vb4pex5vsknk084sn02q",
        "webhooks:manage",
    ),
    (
        "GET",
        "/v1/webhook-endpoints/ep_01h455vb4pex5vsknk084sn02q/secret",
        "webhooks:manage",
    ),
    (
        "POST",
        "/v1/webhook-endpoints/ep_01h455vb4pex5vsknk084sn02q/rotate-secret",
        "webhooks:manage",
    ),
    (
        "POST",
        "/v1/webhook-endpoints/ep_01h455vb4pex5vsknk084sn02q/test",
        "webhooks:manage",
    ),
    (
        "POST",
        "/v1/webhook-endpoints/ep_01h455vb4pex5vsknk084sn02q/enable",
        "webhooks:manage",
    ),
    (
        "POST",
        "/v1/webhook-endpoints/ep_01h455vb4pex5vsknk084sn02q/recover",
        "webhooks:manage",
    ),
    (
        "GET",
        "/v1/webhook-endpoints/ep_01h455vb4pex5vsknk084sn02q/stats",
        "webhooks:read",
    ),
    ("GET", "/v1/webhook-settings", "webhooks:read"),
    ("PUT", "/v1/webhook-settings", "webhooks:manage"),
    ("GET", "/v1/deliveries", "webhooks:read"),
    (
        "POST",
        "/v1/deliveries/dlv_01h455vb4pex5vsknk084sn02q/redeliver",
        "webhooks:manage",
    ),
    (
        "GET",
        "/v1/deliveries/dlv_01h455vb4pex5vsknk084sn02q",
        "webhooks:read",
    ),
    (
        "GET",
        "/v1/deliveries/dlv_01h455vb4pex5vsknk084sn02q/attempts",
        "webhooks:read",
    ),
    ("POST", "/v1/portal-links", "webhooks:manage"),
    ("GET", "/v1/roles", "users:manage"),
    ("GET", "/v1/users", "users:manage"),
    ("POST", "/v1/users", "users:manage"),
    (
        "GET",
        "/v1/users/usr_01h455vb4pex5vsknk084sn02q",
        "users:manage",
    ),
    (
        "PATCH",
        "/v1/users/usr_01h455vb4pex5vsknk084sn02q",
        "users:manage",
    ),
    (
        "DELETE",
        "/v1/users/usr_01h455vb4pex5vsknk084sn02q",
        "users:manage",
    ),
    (
        "POST",
        "/v1/users/usr_01h455vb4pex5vsknk084sn02q/sign-in-link",
        "users:manage",
    ),
    (
        "POST",
        "/v1/users/usr_01h455vb4pex5vsknk084sn02q/sign-out",
        "users:manage",
    ),
    (
        "GET",
        "/v1/users/usr_01h455vb4pex5vsknk084sn02q/grants",
        "users:manage",
    ),
    (
        "POST",
        "/v1/users/usr_01h455vb4pex5vsknk084sn02q/grants",
        "users:manage",
    ),
    (
        "DELETE",
        "/v1/users/usr_01h455vb4pex5vsknk084sn02q/grants/grt_01h455vb4pex5vsknk084sn02q",
        "users:manage",
    ),
    (
        "GET",
        "/v1/users/usr_01h455vb4pex5vsknk084sn02q/permissions",
        "users:manage",
    ),
    (
        "POST",
        "/v1/users/usr_01h455vb4pex5vsknk084sn02q/permissions",
        "users:manage",
    ),
    (
        "DELETE",
        "/v1/users/usr_01h455vb4pex5vsknk084sn02q/permissions/prm_01h455vb4pex5vsknk084sn02q",
        "users:manage",
    ),
];

/// Every personal route of signed-in users.
pub(super) const PERSONAL: &[(&str, &str)] = &[
    ("GET", "/v1/session"),
    ("DELETE", "/v1/session"),
    ("GET", "/v1/sessions"),
    ("DELETE", "/v1/sessions"),
    ("POST", "/v1/session/confirm"),
    ("PUT", "/v1/session/password"),
    ("POST", "/v1/session/totp"),
    ("DELETE", "/v1/session/totp"),
    ("POST", "/v1/session/totp/confirm"),
];

/// Routes without authentication.
pub(super) const OPEN: &[(&str, &str)] = &[("POST", "/v1/sessions")];
