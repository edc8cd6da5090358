//! Room: routes about what a person proves with who they are.
//! Takes: a person's request. Gives: confirmation that it is they; another password; an authenticator that
//! begins to count, or no longer does.
//! Never: changes how a person signs in because a browser was left open: that wants a fresh proof.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use harkara_shared::audit::{self, Actor, Entry};
use harkara_shared::database::{TenantTx, query_scalar};
use harkara_shared::id::UserId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ApiState;
use crate::auth::{Caller, Person};
use crate::body::JsonBody;
use crate::faults::Faults;
use crate::people::password::{Verdict, check};
use crate::people::session::{self, Method};
use crate::people::sign_in::{self, Account, account, take_code};
use crate::people::{Authenticator, throttle};
use crate::problem::{Code, Problem};

/// What a person proves again with who they are: the code, if they have an authenticator, else the
/// password.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Confirmation, example = json!({"code": "123456"}))]
pub(crate) struct ConfirmationRequest {
    /// Their password.
    password: Option<String>,
    /// The code of their authenticator.
    #[schema(example = "123456")]
    code: Option<String>,
}

/// Until when it counts.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Confirmed)]
pub(crate) struct ConfirmedResponse {
    /// Until when.
    confirmed_until: DateTime<Utc>,
}

/// Confirm that it is you
///
/// For ten minutes from now on, what reveals a secret or cannot be undone is open to this session. A fresh
/// sign-in counts as well. For people only.
#[utoipa::path(
    post,
    path = "/v1/session/confirm",
    operation_id = "confirm_session",
    tag = "people",
    request_body = ConfirmationRequest,
    responses(
        (status = 200, description = "It is confirmed", body = ConfirmedResponse),
        (status = 401, description = "The password or the code is wrong, or a code is needed"),
        (status = 409, description = "There is nothing to confirm it with: sign in again"),
        (status = 429, description = "Too many attempts")
    )
)]
pub(crate) async fn confirm_session(
    State(state): State<ApiState>,
    person: Person,
    caller: Caller,
    body: JsonBody,
) -> Result<Json<ConfirmedResponse>, Problem> {
    let mut faults = Faults::default();
    let request: ConfirmationRequest = body.members(&mut faults).unwrap_or_default();
    if request.password.is_none() && request.code.is_none() {
        faults.add("", "/password", "missing", "must be there, or `code`");
    }
    faults.none_in_body()?;
    let user = person.0.user_id;
    throttle::charge_person(&state, user).await?;
    let account = own_account(&state, &person).await?;
    let mut tx = person.begin(&state).await?;
    if account.has_totp {
        let Some(code) = request.code else {
            let detail = "the code of your authenticator is needed";
            return Err(Problem::new(Code::SecondFactor, detail));
        };
        if !take_code(&state, &mut tx, &account, &code, false).await? {
            drop(tx);
            return Err(record_refusal(&state, &person, caller.actor()).await?);
        }
    } else if account.password_hash.is_none() {
        let detail = "there is neither a password nor an authenticator: sign in again";
        return Err(Problem::new(Code::Conflict, detail));
    } else {
        drop(tx);
        let password = request.password.unwrap_or_default();
        let stored = account.password_hash;
        if state.passwords().verify(password, stored).await? == Verdict::Wrong {
            return Err(record_refusal(&state, &person, caller.actor()).await?);
        }
        tx = person.begin(&state).await?;
    }
    let confirmed_until = session::confirm(&mut tx, person.0.id).await?;
    let confirmed_until = confirmed_until.ok_or_else(sign_in::failed)?;
    let entry = Entry::new("session.confirm", person.0.id);
    record_in_own_tenant(&mut tx, &caller, &entry).await?;
    tx.commit().await?;
    Ok(Json(ConfirmedResponse { confirmed_until }))
}

/// Another password.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewPassword, example = json!({
    "current": "correct horse battery staple", "password": "a longer one, and easier to keep"
}))]
pub(crate) struct PasswordRequest {
    /// The password so far. Who has none yet, or has just signed in by a link, leaves it out.
    current: Option<String>,
    /// The new one.
    #[schema(value_type = String, required, nullable = false, min_length = 12, max_length = 128)]
    password: Option<String>,
}

/// Set one's password
///
/// Ends all of one's other sessions. Who has a password says it, unless they signed in by a link within
/// the last ten minutes; who has none must have confirmed that it is they. For people only.
#[utoipa::path(
    put,
    path = "/v1/session/password",
    operation_id = "set_password",
    tag = "people",
    request_body = PasswordRequest,
    responses(
        (status = 204, description = "The password is set"),
        (status = 401, description = "The password so far is wrong"),
        (status = 429, description = "Too many attempts")
    )
)]
pub(crate) async fn set_password(
    State(state): State<ApiState>,
    person: Person,
    caller: Caller,
    body: JsonBody,
) -> Result<StatusCode, Problem> {
    let mut faults = Faults::default();
    let request: PasswordRequest = body.members(&mut faults).unwrap_or_default();
    match &request.password {
        None => faults.add("", "/password", "missing", "must be there"),
        Some(password) => {
            if let Err(error) = check(password) {
                faults.add("", "/password", "invalid", error.to_string());
            }
        }
    }
    faults.none_in_body()?;
    let account = own_account(&state, &person).await?;
    let old = account.password_hash;
    let is_recovery = person.0.method == Method::Link && person.0.confirmed_until.is_some();
    if let Some(current) = request.current {
        throttle::charge_person(&state, account.id).await?;
        let verdict = state.passwords().verify(current, old.clone()).await?;
        if verdict == Verdict::Wrong {
            return Err(record_refusal(&state, &person, caller.actor()).await?);
        }
    } else if old.is_some() && !is_recovery {
        let fault = harkara_jobs::fault::Fault::new("/current", "missing", "must be there");
        let detail = "/current: must be there";
        return Err(Problem::new(Code::Invalid, detail).with_faults(vec![fault]));
    } else {
        caller.require_confirmed()?;
    }
    let password = request.password.unwrap_or_default();
    let hash = state.passwords().hash(password).await?;
    let mut tx = person.begin(&state).await?;
    if !sign_in::set_password(&mut tx, account.id, &hash, old.as_deref()).await? {
        return Err(Problem::new(
            Code::Conflict,
            "the password was changed meanwhile",
        ));
    }
    session::end_all(&mut tx, account.id, Some(person.0.id)).await?;
    let entry = Entry::new("user.set_password", account.id);
    record_in_own_tenant(&mut tx, &caller, &entry).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An authenticator that does not count yet.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Authenticator)]
pub(crate) struct AuthenticatorResponse {
    /// The secret, in base32. Shown this once.
    #[schema(example = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")]
    secret: String,
    /// The same as authenticators read it from a picture.
    #[schema(
        example = "otpauth://totp/Harkara:ada%40example.com?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Harkara"
    )]
    url: String,
}

/// Get an authenticator
///
/// It counts once its first code was told. Needs a fresh confirmation. For people only.
#[utoipa::path(
    post,
    path = "/v1/session/totp",
    operation_id = "create_totp",
    tag = "people",
    responses(
        (status = 201, description = "The authenticator", body = AuthenticatorResponse),
        (status = 409, description = "There is one already")
    )
)]
pub(crate) async fn create_totp(
    State(state): State<ApiState>,
    person: Person,
    caller: Caller,
) -> Result<(StatusCode, Json<AuthenticatorResponse>), Problem> {
    caller.require_confirmed()?;
    let (user, email) = (person.0.user_id, &person.0.email);
    let (authenticator, sealed) = Authenticator::generate(state.keys(), user, email)?;
    let answer = AuthenticatorResponse {
        secret: authenticator.secret(),
        url: authenticator.url()?,
    };
    let mut tx = person.begin(&state).await?;
    let set: Option<UserId> = query_scalar(include_str!("../../sql/set_totp.sql"))
        .bind(person.0.tenant_id)
        .bind(user)
        .bind(sealed)
        .fetch_optional(&mut *tx)
        .await?;
    set.ok_or_else(|| Problem::new(Code::Conflict, "there is an authenticator: remove it first"))?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(answer)))
}

/// The first code.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FirstCode, example = json!({"code": "123456"}))]
pub(crate) struct FirstCodeRequest {
    /// What the authenticator shows.
    #[schema(value_type = String, required, nullable = false, example = "123456")]
    code: Option<String>,
}

/// Have one's authenticator count
///
/// From now on, signing in with a password takes a code as well. For people only.
#[utoipa::path(
    post,
    path = "/v1/session/totp/confirm",
    operation_id = "confirm_totp",
    tag = "people",
    request_body = FirstCodeRequest,
    responses(
        (status = 204, description = "It counts"),
        (status = 401, description = "The code is wrong"),
        (status = 409, description = "There is no authenticator that waits for its first code"),
        (status = 429, description = "Too many attempts")
    )
)]
pub(crate) async fn confirm_totp(
    State(state): State<ApiState>,
    person: Person,
    caller: Caller,
    body: JsonBody,
) -> Result<StatusCode, Problem> {
    let mut faults = Faults::default();
    let request: FirstCodeRequest = body.members(&mut faults).unwrap_or_default();
    if request.code.is_none() {
        faults.add("", "/code", "missing", "must be there");
    }
    faults.none_in_body()?;
    throttle::charge_person(&state, person.0.user_id).await?;
    let account = own_account(&state, &person).await?;
    if account.has_totp || account.totp_sealed.is_none() {
        let detail = "there is no authenticator that waits for its first code";
        return Err(Problem::new(Code::Conflict, detail));
    }
    let mut tx = person.begin(&state).await?;
    let code = request.code.unwrap_or_default();
    if !take_code(&state, &mut tx, &account, &code, true).await? {
        return Err(sign_in::failed());
    }
    let entry = Entry::new("user.add_totp", account.id);
    record_in_own_tenant(&mut tx, &caller, &entry).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Remove one's authenticator
///
/// Needs a fresh confirmation. For people only.
#[utoipa::path(
    delete,
    path = "/v1/session/totp",
    operation_id = "delete_totp",
    tag = "people",
    responses((status = 204, description = "There is none any more"))
)]
pub(crate) async fn delete_totp(
    State(state): State<ApiState>,
    person: Person,
    caller: Caller,
) -> Result<StatusCode, Problem> {
    caller.require_confirmed()?;
    let mut tx = person.begin(&state).await?;
    let removed: Option<UserId> = query_scalar(include_str!("../../sql/remove_totp.sql"))
        .bind(person.0.tenant_id)
        .bind(person.0.user_id)
        .fetch_optional(&mut *tx)
        .await?;
    removed.ok_or_else(|| Problem::not_found("authenticator"))?;
    let entry = Entry::new("user.remove_totp", person.0.user_id);
    record_in_own_tenant(&mut tx, &caller, &entry).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What the person proves with who they are, without holding a connection any longer.
async fn own_account(state: &ApiState, person: &Person) -> Result<Account, Problem> {
    let mut tx = person.begin(state).await?;
    let account = account(&mut tx, person.0.user_id).await?;
    tx.commit().await?;
    Ok(account)
}

/// Adds to the log of the person's own tenant, whomever they act for.
async fn record_in_own_tenant(
    tx: &mut TenantTx,
    caller: &Caller,
    entry: &Entry,
) -> Result<(), sqlx::Error> {
    let tenant = tx.tenant();
    audit::record(tx, tenant, caller.actor(), entry).await
}

/// The answer to a proof that is wrong, which the audit log knows of.
async fn record_refusal(
    state: &ApiState,
    person: &Person,
    actor: &Actor,
) -> Result<Problem, Problem> {
    let mut tx = person.begin(state).await?;
    let entry = Entry::new("session.refused", person.0.user_id);
    audit::record(&mut tx, person.0.tenant_id, actor, &entry).await?;
    tx.commit().await?;
    Ok(Problem::new(
        Code::SignInFailed,
        "the password or the code is wrong",
    ))
}
