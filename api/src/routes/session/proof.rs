//! Routes with which users prove their identity and change how they sign in.
//!
//! Confirms a session, sets the password, and adds and removes an authenticator. Never changes credentials
//! on the strength of an open session alone: that needs a recent confirmation.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use harkara_accounts::users::Authenticator;
use harkara_accounts::users::password::{Verdict, check};
use harkara_accounts::users::session::{self, Method};
use harkara_accounts::users::sign_in::{
    self, Account, find_credentials, remove_authenticator, set_authenticator, take_code,
};
use harkara_shared::audit::{self, Actor, Entry};
use harkara_shared::database::TenantTx;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ApiState;
use crate::auth::{Caller, SignedInUser};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::problem::{Code, Problem};
use crate::sign_in::throttle;

/// Proof of identity: the authenticator's code if the user has one, otherwise the password.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Confirmation, example = json!({"code": "123456"}))]
pub(crate) struct ConfirmationRequest {
    /// Password of the user.
    password: Option<String>,
    /// Current code of the user's authenticator.
    #[schema(example = "123456")]
    code: Option<String>,
}

/// A confirmed session.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Confirmed)]
pub(crate) struct ConfirmedResponse {
    /// Until when the session is confirmed.
    confirmed_until: DateTime<Utc>,
}

/// Confirm the session
///
/// Allows this session to reveal secrets and make irreversible changes for ten minutes. A new session is
/// confirmed as well.
#[utoipa::path(
    post,
    path = "/v1/session/confirm",
    operation_id = "confirm_session",
    tag = "people",
    request_body = ConfirmationRequest,
    responses(
        (status = 200, description = "The session is confirmed", body = ConfirmedResponse),
        (status = 401, description = "The password or the code is wrong, or a code is required"),
        (status = 409, description = "The user has neither a password nor an authenticator: sign in again"),
        (status = 429, description = "Too many attempts")
    )
)]
pub(crate) async fn confirm_session(
    State(state): State<ApiState>,
    signed_in: SignedInUser,
    caller: Caller,
    body: JsonBody,
) -> Result<Json<ConfirmedResponse>, Problem> {
    let mut errors = FieldErrors::default();
    let request: ConfirmationRequest = body.members(&mut errors).unwrap_or_default();
    if request.password.is_none() && request.code.is_none() {
        errors.add(
            "",
            "/password",
            "missing",
            "is required unless `code` is given",
        );
    }
    errors.into_body_result()?;
    let user = signed_in.0.user_id;
    throttle::charge_confirmation(&state, user).await?;
    let account = own_account(&state, &signed_in).await?;
    let mut tx = signed_in.begin(&state).await?;
    if account.has_totp {
        let Some(code) = request.code else {
            let detail = "code of the authenticator is required";
            return Err(Problem::new(Code::SecondFactor, detail));
        };
        if !take_code(state.keys(), &mut tx, &account, &code, false).await? {
            drop(tx);
            return Err(record_refusal(&state, &signed_in, caller.actor()).await?);
        }
    } else if account.password_hash.is_none() {
        let detail = "user has neither a password nor an authenticator; sign in again";
        return Err(Problem::new(Code::Conflict, detail));
    } else {
        drop(tx);
        let password = request.password.unwrap_or_default();
        let stored = account.password_hash;
        if state.passwords().verify(password, stored).await? == Verdict::Wrong {
            return Err(record_refusal(&state, &signed_in, caller.actor()).await?);
        }
        tx = signed_in.begin(&state).await?;
    }
    let confirmed_until = session::confirm_session(&mut tx, signed_in.0.id).await?;
    let confirmed_until = confirmed_until.ok_or_else(crate::sign_in::failed)?;
    let entry = Entry::new("session.confirm", signed_in.0.id);
    record_in_own_tenant(&mut tx, &caller, &entry).await?;
    tx.commit().await?;
    Ok(Json(ConfirmedResponse { confirmed_until }))
}

/// A new password.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewPassword, example = json!({
    "current": "correct horse battery staple", "password": "a longer one, and easier to keep"
}))]
pub(crate) struct PasswordRequest {
    /// Current password. Omit it if the user has none or has just signed in with a link.
    current: Option<String>,
    /// The new password.
    #[schema(value_type = String, required, nullable = false, min_length = 12, max_length = 128)]
    password: Option<String>,
}

/// Set the password
///
/// Ends all other sessions of the user. The current password is required, unless the user signed in with a
/// link within the last ten minutes. A user without a password must have confirmed their identity recently.
#[utoipa::path(
    put,
    path = "/v1/session/password",
    operation_id = "set_password",
    tag = "people",
    request_body = PasswordRequest,
    responses(
        (status = 204, description = "The password was set"),
        (status = 401, description = "The current password is wrong"),
        (status = 429, description = "Too many attempts")
    )
)]
pub(crate) async fn set_password(
    State(state): State<ApiState>,
    signed_in: SignedInUser,
    caller: Caller,
    body: JsonBody,
) -> Result<StatusCode, Problem> {
    let mut errors = FieldErrors::default();
    let request: PasswordRequest = body.members(&mut errors).unwrap_or_default();
    match &request.password {
        None => errors.add("", "/password", "missing", "is required"),
        Some(password) => {
            if let Err(error) = check(password) {
                errors.add("", "/password", "invalid", error.to_string());
            }
        }
    }
    errors.into_body_result()?;
    let account = own_account(&state, &signed_in).await?;
    let old = account.password_hash;
    let is_recovery = signed_in.0.method == Method::Link && signed_in.0.confirmed_until.is_some();
    if let Some(current) = request.current {
        throttle::charge_confirmation(&state, account.id).await?;
        let verdict = state.passwords().verify(current, old.clone()).await?;
        if verdict == Verdict::Wrong {
            return Err(record_refusal(&state, &signed_in, caller.actor()).await?);
        }
    } else if old.is_some() && !is_recovery {
        let error = harkara_kind::FieldError::new("/current", "missing", "is required");
        let detail = "/current: is required";
        return Err(Problem::new(Code::Invalid, detail).with_field_errors(vec![error]));
    } else {
        caller.require_confirmed()?;
    }
    let password = request.password.unwrap_or_default();
    let hash = state.passwords().hash(password).await?;
    let mut tx = signed_in.begin(&state).await?;
    if !sign_in::set_password(&mut tx, account.id, &hash, old.as_deref()).await? {
        return Err(Problem::new(
            Code::Conflict,
            "password was changed by another request",
        ));
    }
    session::end_sessions(&mut tx, account.id, Some(signed_in.0.id)).await?;
    let entry = Entry::new("user.set_password", account.id);
    record_in_own_tenant(&mut tx, &caller, &entry).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An authenticator that has not been confirmed yet.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Authenticator)]
pub(crate) struct AuthenticatorResponse {
    /// Shared secret in base32. Only shown once.
    #[schema(example = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")]
    secret: String,
    /// URL for the QR code that authenticator apps scan.
    #[schema(
        example = "otpauth://totp/Harkara:ada%40example.com?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Harkara"
    )]
    url: String,
}

/// Create an authenticator
///
/// It takes effect once its first code is confirmed. The user must have confirmed their identity recently.
#[utoipa::path(
    post,
    path = "/v1/session/totp",
    operation_id = "create_totp",
    tag = "people",
    responses(
        (status = 201, description = "The authenticator", body = AuthenticatorResponse),
        (status = 409, description = "The user already has an authenticator")
    )
)]
pub(crate) async fn create_totp(
    State(state): State<ApiState>,
    signed_in: SignedInUser,
    caller: Caller,
) -> Result<(StatusCode, Json<AuthenticatorResponse>), Problem> {
    caller.require_confirmed()?;
    let (user, email) = (signed_in.0.user_id, &signed_in.0.email);
    let (authenticator, sealed) = Authenticator::generate(state.keys(), user, email)?;
    let response = AuthenticatorResponse {
        secret: authenticator.secret(),
        url: authenticator.url()?,
    };
    let mut tx = signed_in.begin(&state).await?;
    if !set_authenticator(&mut tx, user, sealed).await? {
        return Err(Problem::new(
            Code::Conflict,
            "user already has an authenticator; remove it first",
        ));
    }
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(response)))
}

/// First code of an authenticator.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FirstCode, example = json!({"code": "123456"}))]
pub(crate) struct FirstCodeRequest {
    /// Current code of the authenticator.
    #[schema(value_type = String, required, nullable = false, example = "123456")]
    code: Option<String>,
}

/// Confirm the authenticator
///
/// From now on, signing in with a password also requires a code.
#[utoipa::path(
    post,
    path = "/v1/session/totp/confirm",
    operation_id = "confirm_totp",
    tag = "people",
    request_body = FirstCodeRequest,
    responses(
        (status = 204, description = "The authenticator is confirmed"),
        (status = 401, description = "The code is wrong"),
        (status = 409, description = "No authenticator is waiting for its first code"),
        (status = 429, description = "Too many attempts")
    )
)]
pub(crate) async fn confirm_totp(
    State(state): State<ApiState>,
    signed_in: SignedInUser,
    caller: Caller,
    body: JsonBody,
) -> Result<StatusCode, Problem> {
    let mut errors = FieldErrors::default();
    let request: FirstCodeRequest = body.members(&mut errors).unwrap_or_default();
    if request.code.is_none() {
        errors.add("", "/code", "missing", "is required");
    }
    errors.into_body_result()?;
    throttle::charge_confirmation(&state, signed_in.0.user_id).await?;
    let account = own_account(&state, &signed_in).await?;
    if account.has_totp || account.totp_sealed.is_none() {
        let detail = "no authenticator is waiting for its first code";
        return Err(Problem::new(Code::Conflict, detail));
    }
    let mut tx = signed_in.begin(&state).await?;
    let code = request.code.unwrap_or_default();
    if !take_code(state.keys(), &mut tx, &account, &code, true).await? {
        return Err(crate::sign_in::failed());
    }
    let entry = Entry::new("user.add_totp", account.id);
    record_in_own_tenant(&mut tx, &caller, &entry).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Delete the authenticator
///
/// The user must have confirmed their identity recently.
#[utoipa::path(
    delete,
    path = "/v1/session/totp",
    operation_id = "delete_totp",
    tag = "people",
    responses((status = 204, description = "The authenticator was deleted"))
)]
pub(crate) async fn delete_totp(
    State(state): State<ApiState>,
    signed_in: SignedInUser,
    caller: Caller,
) -> Result<StatusCode, Problem> {
    caller.require_confirmed()?;
    let mut tx = signed_in.begin(&state).await?;
    if !remove_authenticator(&mut tx, signed_in.0.user_id).await? {
        return Err(Problem::not_found("authenticator"));
    }
    let entry = Entry::new("user.remove_totp", signed_in.0.user_id);
    record_in_own_tenant(&mut tx, &caller, &entry).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reads the user's credentials in a transaction of its own, so that verifying a password holds no
/// connection.
async fn own_account(state: &ApiState, signed_in: &SignedInUser) -> Result<Account, Problem> {
    let mut tx = signed_in.begin(state).await?;
    let account = find_credentials(&mut tx, signed_in.0.user_id).await?;
    tx.commit().await?;
    Ok(account)
}

/// Adds an entry to the audit log of the user's own tenant, whichever tenant they act for.
async fn record_in_own_tenant(
    tx: &mut TenantTx,
    caller: &Caller,
    entry: &Entry,
) -> Result<(), sqlx::Error> {
    let tenant = tx.tenant();
    audit::record(tx, tenant, caller.actor(), entry).await
}

/// Records a failed confirmation and returns the problem to respond with.
async fn record_refusal(
    state: &ApiState,
    signed_in: &SignedInUser,
    actor: &Actor,
) -> Result<Problem, Problem> {
    let mut tx = signed_in.begin(state).await?;
    let entry = Entry::new("session.refused", signed_in.0.user_id);
    audit::record(&mut tx, signed_in.0.tenant_id, actor, &entry).await?;
    tx.commit().await?;
    Ok(Problem::new(
        Code::SignInFailed,
        "password or code is wrong",
    ))
}
