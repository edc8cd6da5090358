//! What is reported of JSON texts that do not decode.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::*;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    name: Option<String>,
    count: Option<i64>,
    nested: Option<Nested>,
    list: Option<Vec<bool>>,
    map: Option<BTreeMap<String, Shape>>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nested {
    needed: bool,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Shape {
    Point,
    Circle(u32),
    Square { side: u32 },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw<'a> {
    #[serde(borrow)]
    text: &'a RawValue,
    owned: Option<Box<RawValue>>,
}

fn found(text: &str) -> Vec<(String, &'static str)> {
    let (_, errors) = decode_object::<Sample>(text, 100);
    errors
        .iter()
        .map(|error| (error.pointer(), error.kind.code()))
        .collect()
}

#[test]
fn each_kind_of_error_points_at_its_value() {
    for (text, pointer, code) in [
        (r#"{"a/b~`c":1}"#, "/a~1b~0`c", "unknown_field"),
        (r#"{"nested":{}}"#, "/nested/needed", "missing"),
        (
            r#"{"nested":{"neded":true}}"#,
            "/nested/neded",
            "unknown_field",
        ),
        (
            r#"{"nested":{"needed":true,"needed":true}}"#,
            "/nested/needed",
            "duplicate",
        ),
        (r#"{"name":"x","name":"y"}"#, "/name", "duplicate"),
        (r#"{"count":"3"}"#, "/count", "invalid"),
        (r#"{"count":99999999999999999999}"#, "/count", "invalid"),
        (r#"{"list":[true,0]}"#, "/list/1", "invalid"),
        (r#"{"map":{"a":"oval"}}"#, "/map/a", "invalid"),
        (
            r#"{"map":{"a":{"circle":"x"}}}"#,
            "/map/a/circle",
            "invalid",
        ),
        (
            r#"{"map":{"a":{"square":{}}}}"#,
            "/map/a/square/side",
            "missing",
        ),
        (r#"{"name":"\ud800"}"#, "/name", "invalid"),
    ] {
        assert_eq!(found(text), [(pointer.to_owned(), code)], "{text}");
    }
}

#[test]
fn wrong_members_are_all_reported_and_the_rest_is_decoded() {
    let text = r#"{"nmae":1,"name":"x","count":"3","list":[0],"map":{"a":"point"}}"#;
    let (sample, errors) = decode_object::<Sample>(text, 100);
    let pointers: Vec<String> = errors.iter().map(Error::pointer).collect();
    assert_eq!(pointers, ["/nmae", "/count", "/list/0"]);
    let expected = Sample {
        name: Some("x".to_owned()),
        map: Some(BTreeMap::from([("a".to_owned(), Shape::Point)])),
        ..Sample::default()
    };
    assert_eq!(sample, Some(expected));
}

#[test]
fn raw_values_keep_their_text() {
    let raw: Raw<'_> = decode(r#"{"text": [1.0, 1e2], "owned": {"a": 1}}"#).unwrap();
    assert_eq!(raw.text.get(), "[1.0, 1e2]");
    assert_eq!(raw.owned.unwrap().get(), r#"{"a": 1}"#);
    let error = decode::<Raw<'_>>(r#"{"text": 1, "txt": 2}"#).unwrap_err();
    assert_eq!(error.pointer(), "/txt");
}

#[test]
fn details_name_the_expected_value() {
    let detail = |text: &str| decode::<Sample>(text).unwrap_err().detail;
    assert!(detail(r#"{"nmae":1}"#).starts_with("unknown member, expected one of `name`"));
    assert_eq!(detail(r#"{"nested":{}}"#), "is required");
    assert!(detail(r#"{"map":{"a":"oval"}}"#).ends_with("got `oval`"));
}

#[test]
fn a_megabyte_of_wrong_members_is_decoded_in_linear_time() {
    let mut text = String::from("{");
    while text.len() < 1 << 20 {
        let number = text.len();
        write!(text, "\"{number}\":0,").unwrap();
    }
    text.push_str("\"name\":1}");
    let started = std::time::Instant::now();
    assert_eq!(found(&text).len(), 100);
    // Quadratic time would be minutes.
    assert!(started.elapsed().as_secs() < 5);
}
