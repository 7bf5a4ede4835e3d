use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::members::{member, text, with_times_that_can_be_held, without_managed_fields};
use super::super::scan::ListScan;

/// The items of a list that comes in pieces of that size, and what the list says of itself.
fn split(list: &[u8], piece: usize, limit: usize) -> Result<(Vec<(String, bool)>, String), String> {
    let mut scan = ListScan::new(limit);
    let mut items = Vec::new();
    for piece in list.chunks(piece.max(1)) {
        scan.feed(piece, |item, whole| items.push((String::from_utf8_lossy(item).into_owned(), whole)))
            .map_err(|e| e.to_string())?;
    }
    let (_, metadata) = scan.end().map_err(|e| e.to_string())?;
    Ok((items, text(&metadata, "resourceVersion")))
}

fn items_of(list: &str) -> Vec<String> {
    split(list.as_bytes(), 3, 1 << 20).unwrap().0.into_iter().map(|(item, _)| item).collect()
}

// RFC 8259: white space, escapes, and values of each kind.
#[test]
fn items_are_found_whatever_is_in_them() {
    let list = r#" { "kind" : "PodList", "metadata":{"resourceVersion":"7","selfLink":"]}"},
        "items" : [ {"a":"}]\"\\"} , {"b":[[{}],"{"]},null, 12 ,"x,]" ], "more": [1, {"items": []}], "z": -1.5e3 }
        "#;
    assert_eq!(items_of(list), [r#"{"a":"}]\"\\"}"#, r#"{"b":[[{}],"{"]}"#, "null", "12", r#""x,]""#]);
    assert_eq!(split(list.as_bytes(), 1, 1 << 20).unwrap().1, "7");
    assert!(items_of(r#"{"items":[],"metadata":{}}"#).is_empty());
    assert!(items_of(r#"{"items":null}"#).is_empty(), "a nil slice of Go's");
    assert!(items_of("{}").is_empty());
}

#[test]
fn what_is_no_list_or_breaks_off_is_refused() {
    for bad in
        ["", "[]", "nonsense", "{", r#"{"items":[{}"#, r#"{"items":[{}]"#, r#"{"items":[]} {"#, r#"{"items":}"#, r#"{items:[]}"#]
    {
        assert!(split(bad.as_bytes(), 2, 100).is_err(), "{bad}");
    }
    let endless = format!(r#"{{"metadata":"{}"}}"#, "x".repeat(2 << 20));
    assert!(split(endless.as_bytes(), 1 << 16, 100).is_err(), "what is said of the list is bounded");
}

// S7: of one that is too long, what says whose it is; the others are whole.
#[test]
fn one_item_is_bounded_and_the_list_is_not() {
    let long = json!({"metadata": {"name": "long", "uid": "u"}, "data": "x".repeat(1000)}).to_string();
    let list = format!(r#"{{"items":[{{"a":1}},{long},{}{{"b":2}}]}}"#, r#"{"c":3},"#.repeat(100_000));
    let (items, _) = split(list.as_bytes(), 4096, 200).unwrap();
    assert_eq!(items.len(), 100_003);
    let (begins, whole) = &items[1];
    assert!(!whole && begins.len() == 200 && items.iter().filter(|(_, whole)| *whole).count() == 100_002);
    let metadata = member(r#"{"metadata":{"name":"long","uid":"u","annotations":{"a":"xxx"#.as_bytes(), "metadata").unwrap();
    assert_eq!((text(metadata, "name"), text(metadata, "uid")), ("long".to_owned(), "u".to_owned()));
}

// S3: metav1.FieldsV1 is opaque bytes; how deep it goes costs no stack.
#[test]
fn depth_does_not_matter() {
    let deep = "[".repeat(2_000_000) + &"]".repeat(2_000_000);
    let item = format!(r#"{{"metadata":{{"managedFields":{deep},"name":"a"}}}}"#);
    assert_eq!(items_of(&format!(r#"{{"items":[{item}]}}"#)).len(), 1);
    assert_eq!(&*without_managed_fields(item.as_bytes()), br#"{"metadata":{"managedFields":null,"name":"a"}}"#);
}

#[test]
fn only_the_objects_own_managed_fields_are_left_out() {
    let kept = r#"{"managedFields":1,"data":{"metadata":{"managedFields":2}},"metadata":{"labels":{"managedFields":"3"}}}"#;
    assert_eq!(&*without_managed_fields(kept.as_bytes()), kept.as_bytes());
}

#[test]
fn only_late_times_of_metadata_and_status_are_mended() {
    let object = r#"{"metadata":{"creationTimestamp":"9999-12-30T22:00:01Z","annotations":{"aTime":"9999-12-31T23:59:59Z"}},
        "data":{"bTime":"9999-12-31T23:59:59Z"},"status":{"startTime":"9999-12-31T23:59:59.5Z","x":"2026-12-31T23:59:59Z"}}"#;
    let mended =
        object.replace("9999-12-30T22:00:01Z", "9999-12-30T21:00:01Z").replace("9999-12-31T23:59:59.5Z", "9999-12-30T21:59:59.5Z");
    assert_eq!(String::from_utf8(with_times_that_can_be_held(object.as_bytes()).unwrap()).unwrap(), mended);
    assert_eq!(with_times_that_can_be_held(mended.as_bytes()), None);
}

// time.Time.Format of what was sent as 9999-12-31T23:59:59-01:00.
#[test]
fn years_of_five_digits_become_the_last_of_four() {
    let object = br#"{"metadata":{"creationTimestamp":"10000-01-01T00:59:59Z","name":"a"},"status":{"aTime":"10000-01-01T00:59:59.000001Z"}}"#;
    let mended: Value = serde_json::from_slice(&with_times_that_can_be_held(object).unwrap()).unwrap();
    let last = "9999-12-30T21:59:59Z";
    assert_eq!(mended, json!({"metadata": {"creationTimestamp": last, "name": "a"}, "status": {"aTime": last}}));
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[\\[\\]{}\",:\\\\]{0,8}".prop_map(Value::from),
    ];
    let key = prop_oneof![Just("metadata".to_owned()), Just("items".to_owned()), Just("managedFields".to_owned()), ".{0,5}"];
    leaf.prop_recursive(4, 32, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key.clone(), inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever comes, in whatever pieces: no panic, and no more is held than was asked for.
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400), piece in 1_usize..40) {
        let mut scan = ListScan::new(16);
        for piece in bytes.chunks(piece) {
            if scan.feed(piece, |item, _| assert!(item.len() <= 16)).is_err() {
                break;
            }
        }
        let _refused_or_not = scan.end();
        let _found = (member(&bytes, "metadata"), without_managed_fields(&bytes), with_times_that_can_be_held(&bytes));
    }

    /// The same of what looks like a list.
    #[test]
    fn any_list_like_text_is_survived(text in "[{}\\[\\]\",:\\\\ a0]{0,60}", piece in 1_usize..9) {
        let list = format!("{{\"metadata\":{{\"managedFields\":{text}}},\"items\":[{text}");
        let _refused_or_not = split(list.as_bytes(), piece, 16);
        let _found = (member(list.as_bytes(), "items"), without_managed_fields(list.as_bytes()));
    }

    /// It finds what a reader of JSON finds, in whatever pieces it comes.
    #[test]
    fn lists_are_split_as_a_reader_of_json_has_them(items in proptest::collection::vec(json_value(), 0..6), pretty: bool, piece in 1_usize..60) {
        let list = json!({"kind": "PodList", "metadata": {"resourceVersion": "7"}, "items": items});
        let written = if pretty { serde_json::to_vec_pretty(&list) } else { serde_json::to_vec(&list) }.unwrap();
        let (found, revision) = split(&written, piece, 1 << 20).unwrap();
        let found: Vec<Value> = found.iter().map(|(item, _)| serde_json::from_str(item).unwrap()).collect();
        prop_assert_eq!(found, items);
        prop_assert_eq!(revision, "7");
    }

    /// An object without its managed fields is the same object otherwise.
    #[test]
    fn managed_fields_are_all_that_is_left_out(mut object in json_value()) {
        let written = object.to_string();
        if let Some(fields) = object.get_mut("metadata").and_then(|metadata| metadata.get_mut("managedFields")) {
            *fields = Value::Null;
        }
        let kept: Value = serde_json::from_slice(&without_managed_fields(written.as_bytes())).unwrap();
        prop_assert_eq!(kept, object);
    }
}

// S3, S7: whatever comes, and however it is cut, the same items come of it.
#[test]
fn mangled_list_has_the_same_items_however_it_is_cut() {
    let seeds: [&[u8]; 3] = [
        br#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7","continue":"x"},"items":[{"a":"}\\""},{"b":[{}]}]}"#,
        br#"{"items":null,"metadata":{}}"#, br#"{"metadata":{"a":"\u005d"},"items":[1,"x",[]]}"#,
    ];
    crate::mangled::each("list", &seeds, |input| {
        let scanned = |size: usize| {
            let (mut scan, mut items) = (ListScan::new(100), Vec::new());
            let fed = input.chunks(size).try_for_each(|piece| scan.feed(piece, |item, whole| items.push((item.to_vec(), whole))));
            fed.and_then(|()| scan.end()).map(|(kind, metadata)| (kind, metadata, items)).map_err(|error| error.to_string())
        };
        let whole = scanned(1 << 20);
        assert_eq!(scanned(1).is_ok(), whole.is_ok());
        if whole.is_ok() {
            assert_eq!(scanned(1), whole);
            assert_eq!(scanned(5), whole);
        }
    });
}
