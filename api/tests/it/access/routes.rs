//! Every route with what it requires of a caller, as the served OpenAPI document states it.

use serde_json::Value;

use crate::support::Platform;

/// One operation.
pub(super) struct Route {
    pub(super) method: String,
    /// The path with a well-formed id in each parameter's place; nothing has these ids.
    pub(super) path: String,
    pub(super) access: Access,
}

/// Who may call an operation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Callers with one of these scopes; a refusal names the first.
    Scopes(Vec<String>),
    /// Signed-in users, about themselves.
    Users,
    /// Everybody.
    Open,
}

/// All operations of resources.
pub(super) async fn all(platform: &Platform) -> Vec<Route> {
    let document = platform.client.get("/openapi.json").await.expect(200);
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .filter(|(path, _)| path.starts_with("/v1/"))
        .flat_map(|(path, item)| {
            let operations = item.as_object().unwrap().iter();
            operations.map(|(method, operation)| Route {
                method: method.to_uppercase(),
                path: with_ids(path, operation),
                access: access(operation),
            })
        })
        .collect()
}

fn with_ids(path: &str, operation: &Value) -> String {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    parameters
        .filter(|parameter| parameter["in"] == "path")
        .fold(path.to_owned(), |path, parameter| {
            let name = parameter["name"].as_str().unwrap();
            let example = parameter["example"].as_str().unwrap();
            let id = match parameter["schema"].get("pattern") {
                Some(_) => example,
                None => "none",
            };
            path.replace(&format!("{{{name}}}"), id)
        })
}

fn access(operation: &Value) -> Access {
    let security = operation["security"].as_array().unwrap();
    if security
        .iter()
        .any(|one| one.as_object().unwrap().is_empty())
    {
        return Access::Open;
    }
    let scopes: Vec<String> = security
        .iter()
        .filter_map(|one| one.get("api_key")?.get(0)?.as_str())
        .map(str::to_owned)
        .collect();
    match scopes.is_empty() {
        true => Access::Users,
        false => Access::Scopes(scopes),
    }
}
