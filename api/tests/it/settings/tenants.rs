//! Limits of tenants, and who can change them.

use harkara_accounts::{NewTenant, Scope, SlaTier, create_tenant, ensure_platform};
use reqwest::Method;
use serde_json::{Value, json};

use super::{pairs, platform_and_admin};

#[tokio::test]
async fn tier_sets_the_limit_of_a_new_tenant() {
    let (platform, admin) = platform_and_admin().await;
    for (tier, slug, rate) in [
        (SlaTier::Free, "free", 30),
        (SlaTier::Pro, "pro", 300),
        (SlaTier::Enterprise, "enterprise", 3000),
    ] {
        let new = NewTenant {
            slug: slug.to_owned(),
            name: slug.to_owned(),
            sla_tier: tier,
        };
        let made = create_tenant(&platform.pool, new, &crate::support::tester())
            .await
            .unwrap();
        for name in [slug, &made.id.to_string()] {
            let limits = admin
                .get(&format!("/v1/tenants/{name}/limits"))
                .await
                .expect(200);
            assert_eq!(
                limits,
                json!({"tenant_id": made.id, "sla_tier": tier.as_str(), "paused": false,
                    "weight": 1, "tier": {"rate_per_minute": rate, "burst": rate / 10,
                        "max_waiting": tier.max_waiting()},
                    "rate_per_minute": rate, "burst": rate / 10, "max_running": null,
                    "running": null, "max_waiting": tier.max_waiting(), "waiting": 0,
                    "limits": {}})
            );
        }
    }
    let own = admin.get("/v1/tenants/platform/limits").await.expect(200);
    assert_eq!(
        (&own["tier"], &own["rate_per_minute"]),
        (&Value::Null, &Value::Null)
    );
}

#[tokio::test]
async fn tenant_sets_its_limit_keys_and_the_platform_sets_the_contract() {
    let (platform, admin) = platform_and_admin().await;
    let path = "/v1/tenants/acme/limits";
    let body = json!({"limits": {"crm": {"rate": 100, "per": "1m", "burst": 20, "max_running": 5},
        "erp": {"max_running": 1}, "gone": null}});
    let set = platform.client.put(path, &body).await.expect(200);
    assert_eq!(
        set["limits"],
        json!({
            "crm": {"rate": 100, "per": "1m", "burst": 20, "max_running": 5, "running": 0},
            "erp": {"rate": null, "per": null, "burst": null, "max_running": 1, "running": 0},
        })
    );
    let body = json!({"limits": {"crm": {"burst": null, "max_running": null}, "erp": null}});
    let set = platform.client.put(path, &body).await.expect(200);
    assert_eq!(
        set["limits"],
        json!({"crm": {"rate": 100, "per": "1m", "burst": 10, "max_running": null,
            "running": null}})
    );
    assert_eq!(platform.client.get(path).await.expect(200), set);
    assert_eq!(set["rate_per_minute"], 3000);

    for name in [
        "rate_per_minute",
        "burst",
        "max_running",
        "max_waiting",
        "weight",
    ] {
        for value in [json!(5), Value::Null] {
            let refused = platform.client.put(path, &json!({name: value})).await;
            refused.problem(403, "platform_only");
        }
    }
    let body = json!({"rate_per_minute": 60_000, "max_running": 50, "weight": 4});
    let raised = admin.put(path, &body).await.expect(200);
    assert_eq!(raised["rate_per_minute"], 60_000);
    assert_eq!(
        (&raised["burst"], &raised["weight"]),
        (&json!(6000), &json!(4))
    );
    assert_eq!(
        (&raised["max_running"], &raised["running"]),
        (&json!(50), &json!(0))
    );
    assert_eq!(
        (&raised["tier"]["rate_per_minute"], &raised["limits"]),
        (&json!(3000), &set["limits"])
    );
    let body = json!({"rate_per_minute": null, "max_running": null, "weight": null});
    let freed = admin.put(path, &body).await.expect(200);
    assert_eq!(
        (&freed["rate_per_minute"], &freed["weight"]),
        (&Value::Null, &json!(1))
    );

    let faulty = json!({"limits": {"": {}, "a/b": {"per": "1m"}, "c": {"rate": 0, "per": "32d"},
        "d": 1, "e": {"many": 1}}});
    let mut faults = platform
        .client
        .put(path, &faulty)
        .await
        .problem(422, "invalid");
    faults.sort();
    assert_eq!(
        faults,
        pairs(&[
            ("/limits/", "invalid_key"),
            ("/limits/c/per", "out_of_range"),
            ("/limits/c/rate", "out_of_range"),
            ("/limits/d", "invalid"),
            ("/limits/e/many", "unknown_field"),
        ])
    );
    for (limit, fault) in [
        (json!({"per": "1m"}), ("/limits/a~1b/per", "needs_rate")),
        (json!({"burst": 1}), ("/limits/a~1b/burst", "needs_rate")),
        (json!({"rate": 1}), ("/limits/a~1b/per", "missing")),
    ] {
        let refused = platform
            .client
            .put(path, &json!({"limits": {"a/b": limit}}))
            .await;
        assert_eq!(refused.problem(422, "invalid"), pairs(&[fault]));
    }
    let many: serde_json::Map<String, Value> = (0..1000)
        .map(|nth| (format!("k{nth}"), json!({"max_running": 1})))
        .collect();
    let refused = platform.client.put(path, &json!({"limits": many})).await;
    assert_eq!(
        refused.problem(422, "invalid"),
        pairs(&[("/limits", "too_many")])
    );
}

#[tokio::test]
async fn only_a_platform_admin_changes_settings_of_another_tenant() {
    let (platform, admin) = platform_and_admin().await;
    let other = platform.tenant("other").await;
    let stranger = platform.client_of(&other, Scope::ALL).await;
    let own = ensure_platform(&platform.pool).await.unwrap();
    let most: Vec<Scope> = Scope::ALL
        .iter()
        .copied()
        .filter(|scope| *scope != Scope::PlatformAdmin)
        .collect();
    let operator = platform.client_of(&own, &most).await;
    for client in [&stranger, &operator] {
        client
            .get("/v1/tenants/acme/limits")
            .await
            .problem(404, "not_found");
        let put = client.put("/v1/tenants/acme/limits", &json!({})).await;
        put.problem(404, "not_found");
    }
    stranger
        .press("/v1/tenants/acme/pause")
        .await
        .problem(404, "not_found");
    stranger
        .press("/v1/tenants/other/pause")
        .await
        .problem(403, "platform_only");
    operator
        .press("/v1/tenants/acme/pause")
        .await
        .problem(403, "missing_scope");
    let own_rate = operator
        .put("/v1/tenants/platform/limits", &json!({"weight": 2}))
        .await;
    own_rate.problem(403, "missing_scope");
    for name in [
        "unknown",
        "ACME",
        "%00",
        &harkara_shared::id::TenantId::new().to_string(),
    ] {
        admin
            .get(&format!("/v1/tenants/{name}/limits"))
            .await
            .problem(404, "not_found");
    }

    let paused = admin.press("/v1/tenants/acme/pause").await.expect(200);
    assert_eq!(
        (&paused["paused"], &paused["tenant_id"]),
        (&json!(true), &json!(platform.acme.id))
    );
    assert_eq!(
        platform
            .client
            .get("/v1/tenants/acme/limits")
            .await
            .expect(200),
        paused
    );
    assert_eq!(
        stranger.get("/v1/tenants/other/limits").await.expect(200)["paused"],
        false
    );
    let resumed = admin.press("/v1/tenants/acme/resume").await.expect(200);
    assert_eq!(resumed["paused"], false);
    // Acting for a tenant, the platform's admin controls that tenant's lanes.
    let headers = [
        ("x-tenant-id", "acme"),
        ("content-type", "application/json"),
    ];
    let body = Some(json!({"paused": true}).to_string());
    let lane = admin
        .send(Method::PUT, "/v1/queues/mine/lanes", &headers, body)
        .await;
    assert_eq!(lane.expect(200)["paused"], true);
    let lanes = platform
        .client
        .get("/v1/queues/mine/lanes")
        .await
        .expect(200);
    assert_eq!(lanes["data"][0]["paused"], true);
}

#[tokio::test]
async fn tenant_and_its_limits_are_changed_together() {
    let (platform, admin) = platform_and_admin().await;
    let path = format!("/v1/tenants/{}", platform.acme.id);
    for round in 0..20 {
        let status = if round % 2 == 0 {
            "suspended"
        } else {
            "active"
        };
        let (change, limits) = (json!({"status": status}), json!({"burst": round + 1}));
        let limits_path = format!("{path}/limits");
        let (changed, limited) = tokio::join!(
            admin.patch(&path, &change),
            admin.put(&limits_path, &limits)
        );
        changed.expect(200);
        limited.expect(200);
    }
}
