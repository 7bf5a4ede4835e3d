//! Values that must not show: secrets and tokens travel in it, so that logs and traces cannot print them.
//! Upstream: the datapolicy tags of the API types (API-280: never Secret data or tokens).
//! Differs: by type instead of by tag.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Holds a value that `Debug` and `Serialize` hide. [`Sensitive::reveal`] is the one way to it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Sensitive<T>(T);

impl<T> Sensitive<T> {
    /// Hides a value.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself; the caller takes care that it is not printed.
    pub fn reveal(&self) -> &T {
        &self.0
    }

    /// The value itself, moved out.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> fmt::Debug for Sensitive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T> Serialize for Sensitive<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

impl<'de, T: Default> Deserialize<'de> for Sensitive<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|_| Self(T::default()))
    }
}
