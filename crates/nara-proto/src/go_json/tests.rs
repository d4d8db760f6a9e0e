#![expect(unreachable_pub, reason = "`wire_struct!` declares public types")]

use super::*;
use crate::time::UnixNanos;
use crate::wire_struct;
use crate::zine::Zine;

wire_struct! {
    /// Inner.
    pub struct Inner {
        /// a
        pub a: String = "a", omit,
        /// b
        pub b: i64 = "b", omit,
    }
}

wire_struct! {
    /// Outer.
    pub struct Outer {
        /// name
        pub name: String = "name",
        /// task
        pub task: i64 = "task",
        /// list
        pub list: Option<Vec<Inner>> = "list",
        /// inner
        pub inner: Option<Box<Inner>> = "inner", omit,
        /// bytes
        pub bytes: Bytes = "bytes",
    }
}

fn outer(json: &str) -> Result<Outer, JsonError> {
    from_slice(json.as_bytes())
}

#[test]
fn keys_match_regardless_of_case_and_kelvin_signs() {
    assert_eq!(outer(r#"{"NAME":"x","tas\u212a":3}"#).unwrap().task, 3);
    assert_eq!(outer("{\"ta\u{17f}k\":4}").unwrap().task, 4);
    assert_eq!(outer(r#"{"task":1,"TASK":2}"#).unwrap().task, 2);
    assert_eq!(outer(r#"{"tas":1,"taskk":2}"#).unwrap().task, 0);
}

#[test]
fn repeated_objects_merge_and_null_removes_them() {
    let merged = outer(r#"{"inner":{"a":"x"},"inner":{"b":2}}"#)
        .unwrap()
        .inner
        .unwrap();
    assert_eq!((merged.a.as_str(), merged.b), ("x", 2));
    assert_eq!(outer(r#"{"inner":{"a":"x"},"inner":null}"#).unwrap().inner, None);
    assert_eq!(outer(r#"{"name":"x","name":null}"#).unwrap().name, "x");
}

#[test]
fn null_and_trailing_bytes() {
    assert_eq!(outer("null").unwrap(), Outer::default());
    assert_eq!(outer(r#"{"task":1} rubbish"#).unwrap().task, 1);
    assert!(from_slice_exact::<Outer>(br#"{"task":1} rubbish"#).is_err());
    assert!(from_slice_exact::<Outer>(b"{\"task\":1} \n\t").is_ok());
    assert!(outer("").is_err());
    assert!(outer("[]").is_err());
    assert!(outer("7").is_err());
}

#[test]
fn lists_tell_null_from_empty() {
    assert_eq!(outer(r#"{"list":null}"#).unwrap().list, None);
    assert_eq!(outer(r#"{"list":[]}"#).unwrap().list, Some(vec![]));
    assert_eq!(
        to_string(&Outer {
            list: Some(vec![]),
            ..Outer::default()
        }),
        r#"{"name":"","task":0,"list":[],"bytes":null}"#
    );
    assert_eq!(
        outer(r#"{"list":[null,{"b":1}]}"#).unwrap().list.unwrap().len(),
        2
    );
}

#[test]
fn broken_text_becomes_replacement_characters() {
    let name = |json: &[u8]| from_slice::<Outer>(json).unwrap().name;
    assert_eq!(name(b"{\"name\":\"a\xff\xfeb\"}"), "a\u{fffd}\u{fffd}b");
    assert_eq!(name(br#"{"name":"\ud800x"}"#), "\u{fffd}x");
    assert_eq!(name(br#"{"name":"\ud800\ud800\udc00"}"#), "\u{fffd}\u{10000}");
    assert_eq!(name(b"{\"\xff\":1,\"name\":\"y\"}"), "y");
    // The bytes of a surrogate are three invalid bytes; its escape is one invalid character.
    assert_eq!(
        name(b"{\"name\":\"\xed\xa0\x80\\udfff\"}"),
        "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"
    );
    assert_eq!(name(b"{\"name\":\"\xf0\x9f\xa6\"}"), "\u{fffd}\u{fffd}\u{fffd}");
    assert!(from_slice::<Outer>(b"{\"name\":\"y\"\xff}").is_err());
}

#[test]
fn bare_control_characters_are_an_error_inside_strings_only() {
    for bad in [
        "{\"name\":\"a\nb\"}",
        "{\"name\":\"\\n\u{1}\"}",
        "{\"na\tme\":\"\"}",
        "{\"unknown\":\"\r\"}",
    ] {
        assert!(outer(bad).is_err(), "{bad:?}");
    }
    assert_eq!(outer("\n{\t\"name\" :\r\"a\\nb\"}\n").unwrap().name, "a\nb");
    assert_eq!(outer("{\"name\":\"a\"} \"\n\" \u{1}").unwrap().name, "a");
}

#[test]
fn byte_strings_are_lenient_base64() {
    assert_eq!(outer(r#"{"bytes":"/x=="}"#).unwrap().bytes.as_slice(), [0xff]);
    assert!(outer(r#"{"bytes":"/x"}"#).is_err());
    assert!(outer(r#"{"bytes":[1]}"#).is_err());
    assert_eq!(outer(r#"{"bytes":null}"#).unwrap().bytes.0, None);
}

#[test]
fn timestamps_have_one_spelling() {
    for (text, again) in [
        ("2026-01-22T23:10:56Z", "2026-01-22T23:10:56Z"),
        ("2026-01-22T23:10:56.500+00:00", "2026-01-22T23:10:56.5Z"),
        (
            "2026-01-22T23:10:56.1234567899-02:30",
            "2026-01-22T23:10:56.123456789-02:30",
        ),
        ("0000-02-29T00:00:00Z", "0000-02-29T00:00:00Z"),
        ("2026-01-22T23:10:56-00:00", "2026-01-22T23:10:56Z"),
        ("2026-01-22T23:10:56,5Z", "2026-01-22T23:10:56.5Z"),
    ] {
        assert_eq!(Timestamp::parse(text).unwrap().to_string(), again);
    }
    let with_offset = |seconds| Timestamp::new(UnixNanos::new(0), seconds).unwrap().to_string();
    assert_eq!(with_offset(-30), "1969-12-31T23:59:30+00:00");
    assert_eq!(with_offset(-5_430), "1969-12-31T22:29:30-01:30");
    for bad in [
        "2026-01-22t23:10:56Z",
        "2026-01-22T23:10:56z",
        "2026-01-22 23:10:56Z",
        "2026-01-22T23:10Z",
        "2026-01-22T23:10:60Z",
        "2026-01-22T23:10:56.Z",
        "2026-02-30T23:10:56Z",
        "2026-01-22T24:00:00Z",
        "2026-01-22T23:10:56+24:00",
        "2026-01-22T23:10:56",
        "",
    ] {
        assert_eq!(Timestamp::parse(bad), Err(InvalidTimestamp), "{bad}");
    }
}

/// Returns a list of `len` elements.
fn list(element: &str, len: usize) -> String {
    format!("[{}]", vec![element; len].join(","))
}

#[test]
fn a_list_of_too_many_small_elements_is_refused() {
    let read = |len: usize| from_slice::<Option<Vec<String>>>(list("\"nara\"", len).as_bytes());
    assert_eq!(read(MAX_LIST).unwrap().unwrap().len(), MAX_LIST);
    let error = read(MAX_LIST + 1).unwrap_err();
    assert!(error.to_string().contains("more than 100000 elements"), "{error}");
}

#[test]
fn a_text_that_takes_many_times_its_length_in_memory_is_refused() {
    let refused = |error: JsonError| assert!(error.to_string().contains("too much memory"), "{error}");
    refused(from_slice::<Option<Vec<String>>>(list("\"\"", 90_000).as_bytes()).unwrap_err());
    let payloads = [
        "social",
        "ping",
        "observation",
        "hey_there",
        "chau",
        "seen",
        "checkpoint",
        "succession",
    ];
    let payloads = payloads.map(|payload| format!("\"{payload}\":{{}}")).join(",");
    let voters = format!(r#""checkpoint":{{"voter_ids":{}}}"#, list("\"\"", 2_000));
    for (event, count) in [
        ("{}", 5_000),
        (&format!("{{{payloads}}}"), 5_000),
        (&format!("{{{voters}}}"), 50),
    ] {
        let zine = format!(r#"{{"from":"m","events":{}}}"#, list(event, count));
        refused(from_slice::<Zine>(zine.as_bytes()).unwrap_err());
    }
    // Two lists in one object, too: the later one replaces the earlier one, but both are counted.
    let lists = format!(r#"{{"events":{0},"events":{0}}}"#, list("{}", 300));
    refused(from_slice::<Zine>(lists.as_bytes()).unwrap_err());
}

#[test]
fn genuine_messages_stay_within_the_memory_budget() {
    // The shortest possible events, without a signature.
    let event = r#"{"id":"00000000000000000000000000000000","ts":1769000000000000000,"svc":"ping","emitter":"","ping":{"observer":"a","target":"b","rtt":1}}"#;
    let zine = format!(r#"{{"from":"m","events":{}}}"#, list(event, 50_000));
    assert_eq!(
        from_slice::<Zine>(zine.as_bytes()).unwrap().events().len(),
        50_000
    );
    // Small messages are never refused, and a budget ends with its message.
    for _ in 0..3 {
        let events = from_slice::<Zine>(format!(r#"{{"events":{}}}"#, list("{}", 200)).as_bytes());
        assert_eq!(events.unwrap().events().len(), 200);
    }
}

#[test]
fn an_error_quotes_no_more_of_the_input_than_a_reader_needs() {
    let json = format!(r#"{{"task":"{}"}}"#, "x".repeat(1 << 20));
    let error = from_slice::<Outer>(json.as_bytes()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("xxx… at line 1 column "), "{}", text.len());
    assert!(text.chars().count() < 400, "{}", text.len());
    assert!(
        std::error::Error::source(&error).is_none(),
        "it would be shown in full"
    );
}

#[test]
fn no_value_is_longer_as_json_than_the_bound_that_is_found_without_writing_it() {
    let texts = ["", "\u{1}<>&", "\u{2028}", "é\"\\"];
    for text in texts {
        for number in [0, i64::MIN, i64::MAX] {
            let inner = Inner {
                a: text.to_owned(),
                b: number,
            };
            let outer = Outer {
                name: text.to_owned(),
                task: number,
                list: Some(vec![inner.clone(); text.len()]),
                inner: Some(Box::new(inner)),
                bytes: Bytes::from(text.as_bytes().to_vec()),
            };
            assert!(to_vec(&outer).len() <= outer.most_bytes());
        }
    }
    assert!(to_vec(&Outer::default()).len() <= Outer::default().most_bytes());
    for float in [
        f64::MIN,
        -f64::MIN_POSITIVE,
        -4e-6 / 3.0,
        -9.999_999_999_999_999e20,
    ] {
        assert!(to_vec(&float).len() <= float.most_bytes());
    }
}
