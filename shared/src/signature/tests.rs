//! Tests of both signature versions.

use super::*;
use proptest::prelude::*;

const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
const AT: i64 = 1_649_367_553;
const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;

fn secret_a() -> WebhookSecret {
    WebhookSecret::parse("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD").unwrap()
}

/// The secret and public keys of vectors C and D.
const C: [&str; 2] = [
    "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
    "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
];
const D: [&str; 2] = [
    "whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2DXWpgBgrEKt9VL/tPJZAc6DuFy89qmIyWvAhpo9wdRGg==",
    "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
];

fn key_d() -> Ed25519Key {
    Ed25519Key::parse(D[0]).unwrap()
}

#[test]
fn signatures_match_the_published_vectors() {
    let a = secret_a().sign(ID, AT, BODY);
    assert_eq!(a, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");

    // Vector B's secret has 18 bytes, fewer than the standard requires, so `parse` rejects it.
    let b = "plJ3nmyCDGBKInavdOK15jsl";
    let refused = WebhookSecret::parse(&format!("whsec_{b}")).err();
    assert_eq!(refused, Some(InvalidKey::Length("24 to 64")));
    let b = WebhookSecret::of_any_length(BASE64.decode(b).unwrap()).sign(
        "msg_loFOjxBNrRLzqYUf",
        1_731_705_121,
        br#"{"event_type":"ping","data":{"success":true}}"#,
    );
    assert_eq!(b, "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=");

    let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    let c = SigningKey::parse(C[0]).unwrap();
    assert_eq!(c.public().as_deref(), Some(C[1]));
    assert_eq!(
        c.sign(id, 1_614_265_330, br#"{"test": 2432232314}"#),
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
    );
    let d = SigningKey::parse(D[0]).unwrap();
    assert_eq!(d.public().as_deref(), Some(D[1]));
    assert_eq!(
        d.sign(ID, AT, BODY),
        "v1a,jfp5j4J3Buv9EPOcc9Bqo8rJqAO1H6lrRl0WZQdzVZI6IttNPT8HSLyPvUvY54dJJt2BQGA01di1ePvigCwlCw==",
    );
}

#[test]
fn key_survives_its_text_and_is_hidden_in_debug() {
    let secret = SigningKey::from(WebhookSecret::generate());
    let pair = SigningKey::from(Ed25519Key::generate());
    for (key, length, shown) in [
        (&secret, 32, "Symmetric(WebhookSecret(redacted))"),
        (&pair, 64, "Asymmetric(Ed25519Key(redacted))"),
    ] {
        let text = key.expose();
        let again = SigningKey::parse(&text).unwrap();
        assert_eq!(
            (again.expose(), again.public()),
            (text.clone(), key.public())
        );
        let (_, encoded) = text.split_once('_').unwrap();
        assert_eq!(BASE64.decode(encoded).unwrap().len(), length);
        assert_eq!(format!("{key:?}"), shown);
    }
    assert_eq!(secret.public(), None);
    let public = pair.public().unwrap();
    assert_eq!(
        Ed25519PublicKey::parse(&public).unwrap().to_string(),
        public
    );
}

#[test]
fn seed_alone_gives_the_same_key() {
    let pair = BASE64.decode(&D[0]["whsk_".len()..]).unwrap();
    let seed = format!("whsk_{}", BASE64.encode(&pair[..32]));
    assert_eq!(Ed25519Key::parse(&seed).unwrap().expose(), D[0]);
}

#[test]
fn malformed_ed25519_key_is_rejected_with_its_reason() {
    let secret = |text: &str| SigningKey::parse(text).err();
    let of = |bytes: &[u8]| format!("whsk_{}", BASE64.encode(bytes));
    for bytes in [0, 31, 33, 63, 65] {
        let refused = secret(&of(&vec![7; bytes]));
        assert_eq!(refused, Some(InvalidKey::Length("32 or 64")), "{bytes}");
    }
    assert_eq!(secret(&of(&[7; 64])), Some(InvalidKey::KeyPairMismatch));
    assert_eq!(secret("whsk_!!!!"), Some(InvalidKey::Base64));
    for text in ["", C[1], "WHSK_AAAA"] {
        let refused = secret(text);
        assert_eq!(
            refused,
            Some(InvalidKey::Prefix("`whsec_` or `whsk_`")),
            "{text}"
        );
    }
    let public = |text: &str| Ed25519PublicKey::parse(text).err();
    assert_eq!(public(D[0]), Some(InvalidKey::Prefix("`whpk_`")));
    assert_eq!(public("whpk_AAAA"), Some(InvalidKey::Length("32")));
    assert_eq!(public("whpk_!"), Some(InvalidKey::Base64));
    // No point on the curve has y = 2.
    let mut two = [0; 32];
    two[0] = 2;
    let none = format!("whpk_{}", BASE64.encode(two));
    assert_eq!(public(&none), Some(InvalidKey::NotOnCurve));
}

#[test]
fn short_and_malformed_secrets_are_rejected() {
    let parse = |text: &str| WebhookSecret::parse(text).err();
    let of = |bytes: usize| format!("whsec_{}", BASE64.encode(vec![7; bytes]));
    for bytes in [0, 23, 65] {
        let refused = parse(&of(bytes));
        assert_eq!(refused, Some(InvalidKey::Length("24 to 64")), "{bytes}");
    }
    assert_eq!(parse(&of(24)), None);
    assert_eq!(parse(&of(64)), None);
    assert_eq!(parse(""), Some(InvalidKey::Prefix("`whsec_`")));
    assert_eq!(parse("whsk_AAAA"), Some(InvalidKey::Prefix("`whsec_`")));
    assert_eq!(parse("whsec_!!!!"), Some(InvalidKey::Base64));
}

#[test]
fn rotation_signs_with_every_key_current_one_first() {
    let (new, old, pair) = (WebhookSecret::generate(), secret_a(), key_d());
    let keys = [new.clone().into(), old.clone().into(), pair.clone().into()];
    let header = sign_all(&keys, ID, AT, BODY);
    assert!(header.starts_with(&new.sign(ID, AT, BODY)));
    for secret in [&new, &old] {
        assert_eq!(verify(secret, ID, AT, &header, BODY, AT, TOLERANCE), Ok(()));
    }
    let public = pair.public();
    assert_eq!(
        verify(&public, ID, AT, &header, BODY, AT, TOLERANCE),
        Ok(())
    );

    let stranger = WebhookSecret::generate();
    let refused = verify(&stranger, ID, AT, &header, BODY, AT, TOLERANCE);
    assert_eq!(refused, Err(VerifyError::Mismatch));
    let stranger = Ed25519Key::generate().public();
    let refused = verify(&stranger, ID, AT, &header, BODY, AT, TOLERANCE);
    assert_eq!(refused, Err(VerifyError::Mismatch));
}

#[test]
fn public_key_ignores_symmetric_signatures() {
    let public = key_d().public();
    let with = |header: &str| verify(&public, ID, AT, header, BODY, AT, TOLERANCE);
    let by_secret = secret_a().sign(ID, AT, BODY);
    assert_eq!(with(&by_secret), Err(VerifyError::NoSignature));
    for header in ["v1a,", "v1a,!", "v1a,AAAA"] {
        assert_eq!(with(header), Err(VerifyError::Mismatch), "{header}");
    }
    let among_others = format!("{by_secret} v1a,AAAA {}", key_d().sign(ID, AT, BODY));
    assert_eq!(with(&among_others), Ok(()));
}

#[test]
fn tolerance_is_exactly_five_minutes_both_ways() {
    let header = secret_a().sign(ID, AT, BODY);
    let at = |now| verify(&secret_a(), ID, AT, &header, BODY, now, TOLERANCE);
    assert_eq!((at(AT - 300), at(AT + 300)), (Ok(()), Ok(())));
    assert_eq!(at(AT + 301), Err(VerifyError::TooOld));
    assert_eq!(at(AT - 301), Err(VerifyError::InFuture));
    assert_eq!(at(i64::MAX), Err(VerifyError::TooOld));
    assert_eq!(at(i64::MIN), Err(VerifyError::InFuture));
}

#[test]
fn missing_and_wrong_signatures_are_distinguished() {
    let with = |header: &str| verify(&secret_a(), ID, AT, header, BODY, AT, TOLERANCE);
    for header in ["", " ", "v1", "v1a,AAAA", "AAAA", "v2,tZ1I4/hDygA="] {
        assert_eq!(with(header), Err(VerifyError::NoSignature), "{header}");
    }
    for header in ["v1,", "v1,!", "v1,AAAA"] {
        assert_eq!(with(header), Err(VerifyError::Mismatch), "{header}");
    }
    let among_others = format!("v1a,AAAA v1,AAAA {}", secret_a().sign(ID, AT, BODY));
    assert_eq!(with(&among_others), Ok(()));
}

#[test]
fn message_id_with_a_dot_is_rejected() {
    let header = secret_a().sign("msg", 1, b"2.body");
    let moved = verify(&secret_a(), "msg.1", 2, &header, b"body", 2, TOLERANCE);
    assert_eq!(moved, Err(VerifyError::Id));
}

proptest! {
    #[test]
    fn only_the_signed_message_verifies(
        id in "[a-z0-9_]{1,30}", body: Vec<u8>, other: Vec<u8>, now: i64,
    ) {
        let header = secret_a().sign(&id, now, &body);
        prop_assert_eq!(verify(&secret_a(), &id, now, &header, &body, now, TOLERANCE), Ok(()));
        let public = key_d().public();
        let by_pair = key_d().sign(&id, now, &body);
        prop_assert_eq!(verify(&public, &id, now, &by_pair, &body, now, TOLERANCE), Ok(()));
        if other != body {
            let refused = verify(&public, &id, now, &by_pair, &other, now, TOLERANCE);
            prop_assert_eq!(refused, Err(VerifyError::Mismatch));
            let refused = verify(&secret_a(), &id, now, &header, &other, now, TOLERANCE);
            prop_assert_eq!(refused, Err(VerifyError::Mismatch));
        }
    }

    #[test]
    fn verify_accepts_any_header_without_panicking(header in "(v1,)?\\PC{0,80}") {
        prop_assert!(verify(&secret_a(), ID, AT, &header, BODY, AT, TOLERANCE).is_err());
    }
}
