//! Which fields of a document fit the settings, and everything about it that does not, each with its full path.
//! Upstream: k8s.io/apimachinery/pkg/runtime/serializer (strict decoding).
//! Differs: all problems at once, with the nearest known name; upstream falls back to lenient decoding with a warning.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

use super::suggest::nearest;

/// Something in a document that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// A field that does not exist; with the nearest one that does.
    Unknown(Option<&'static str>),
    /// A value that the field cannot take; with the reason.
    Value(String),
}

/// Reads `document` as `T`. What fits is in the answer; what does not is in the map, by path.
pub(super) fn decode<T: DeserializeOwned + Default>(mut document: Value) -> (T, BTreeMap<String, (Misfit, Value)>) {
    let mut misfits = BTreeMap::new();
    let mut gone = Gone::default();
    loop {
        let found = RefCell::new(Found::default());
        let result = T::deserialize(Node { value: &document, path: &Path::Root, found: &found });
        let found = found.into_inner();
        misfits.extend(found.unknown.into_iter().map(|(path, misfit)| (gone.text(&path), misfit)));
        let error = match result {
            Ok(decoded) => return (decoded, misfits),
            Err(error) => error,
        };
        // A value was wrong: note it, take it away, and go on with the rest.
        let path = found.failed.unwrap_or_default();
        let Some(value) = take(&mut document, &path) else {
            misfits.insert(gone.text(&path), (Misfit::Value(error.to_string()), document));
            return (T::default(), misfits);
        };
        misfits.insert(gone.text(&path), (Misfit::Value(error.to_string()), value));
        gone.note(&path);
    }
}

#[derive(Default)]
struct Found {
    unknown: Vec<(Vec<Step>, (Misfit, Value))>,
    failed: Option<Vec<Step>>,
}

#[derive(Clone, Debug)]
enum Step {
    Key(String),
    Index(usize),
}

enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    fn steps(&self) -> Vec<Step> {
        let (parent, step) = match self {
            Self::Root => return Vec::new(),
            Self::Key(parent, key) => (parent, Step::Key((*key).to_owned())),
            Self::Index(parent, index) => (parent, Step::Index(*index)),
        };
        let mut steps = parent.steps();
        steps.push(step);
        steps
    }
}

/// Elements that were taken out of arrays, by the array's path, so that what followed them keeps its number.
#[derive(Default)]
struct Gone(BTreeMap<String, BTreeSet<usize>>);

impl Gone {
    /// A path as people write it: `authentication.x509`, `registerWithTaints[0].key`.
    fn text(&self, steps: &[Step]) -> String {
        let mut text = String::new();
        for step in steps {
            match step {
                Step::Key(key) if text.is_empty() => text.push_str(key),
                Step::Key(key) => text.extend([".", key]),
                Step::Index(index) => text = format!("{text}[{}]", self.original(&text, *index)),
            }
        }
        text
    }

    fn original(&self, array: &str, index: usize) -> usize {
        self.0.get(array).into_iter().flatten().fold(index, |index, gone| index + usize::from(*gone <= index))
    }

    fn note(&mut self, path: &[Step]) {
        if let Some((Step::Index(index), array)) = path.split_last() {
            let array = self.text(array);
            let original = self.original(&array, *index);
            self.0.entry(array).or_default().insert(original);
        }
    }
}

/// Removes what is at a path.
fn take(document: &mut Value, path: &[Step]) -> Option<Value> {
    let (last, before) = path.split_last()?;
    let mut at = document;
    for step in before {
        at = match step {
            Step::Key(key) => at.get_mut(key)?,
            Step::Index(index) => at.get_mut(*index)?,
        };
    }
    match last {
        Step::Key(key) => at.as_object_mut()?.remove(key),
        Step::Index(index) => {
            let elements = at.as_array_mut()?;
            (*index < elements.len()).then(|| elements.remove(*index))
        }
    }
}

/// A value on its path; serde pulls it through here so that both can be told.
#[derive(Clone, Copy)]
struct Node<'a> {
    value: &'a Value,
    path: &'a Path<'a>,
    found: &'a RefCell<Found>,
}

/// What serde says about a value.
#[derive(Debug)]
struct Wrong(String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

impl serde::de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl Node<'_> {
    /// Remembers where it went wrong first, which is deepest.
    fn noting<T>(self, result: Result<T, Wrong>) -> Result<T, Wrong> {
        if result.is_err() {
            self.found.borrow_mut().failed.get_or_insert_with(|| self.path.steps());
        }
        result
    }

    fn visit<'de, V: Visitor<'de>>(self, known: Option<&'static [&'static str]>, visitor: V) -> Result<V::Value, Wrong> {
        let result = match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(value), _) => visitor.visit_u64(value),
                (None, Some(value)) => visitor.visit_i64(value),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(value) => visitor.visit_str(value),
            Value::Array(elements) => visitor.visit_seq(Elements { node: self, elements: elements.iter().enumerate() }),
            Value::Object(entries) => visitor.visit_map(Entries { node: self, entries: entries.iter(), known, value: None }),
        };
        self.noting(result)
    }
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.visit(None, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        if !self.value.is_object() && !self.value.is_null() {
            return self.noting(Err(Wrong::custom(format_args!("expected fields, not {}", self.value))));
        }
        self.visit(Some(fields), visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Wrong> {
        let result = visitor.visit_newtype_struct(self);
        self.noting(result)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct Elements<'a> {
    node: Node<'a>,
    elements: std::iter::Enumerate<std::slice::Iter<'a, Value>>,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Wrong;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Wrong> {
        let Some((index, value)) = self.elements.next() else { return Ok(None) };
        let path = Path::Index(self.node.path, index);
        seed.deserialize(Node { value, path: &path, found: self.node.found }).map(Some)
    }
}

struct Entries<'a> {
    node: Node<'a>,
    entries: serde_json::map::Iter<'a>,
    known: Option<&'static [&'static str]>,
    value: Option<(&'a String, &'a Value)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Wrong> {
        for (key, value) in self.entries.by_ref() {
            if let Some(known) = self.known {
                if !known.contains(&key.as_str()) {
                    let path = Path::Key(self.node.path, key).steps();
                    let misfit = Misfit::Unknown(nearest(key, known.iter().copied()));
                    self.node.found.borrow_mut().unknown.push((path, (misfit, value.clone())));
                    continue;
                }
                // As in Go, null leaves a field alone.
                if value.is_null() {
                    continue;
                }
            }
            self.value = Some((key, value));
            return seed.deserialize(StrDeserializer::new(key)).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let (key, value) = self.value.take().ok_or_else(|| Wrong::custom("a value without its key"))?;
        let path = Path::Key(self.node.path, key);
        seed.deserialize(Node { value, path: &path, found: self.node.found })
    }
}
