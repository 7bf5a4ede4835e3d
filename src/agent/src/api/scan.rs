//! Where objects begin and end in what an API server sends: found byte by byte, without a look at what is in them.
//! Upstream: k8s.io/apimachinery/pkg/runtime/serializer (protobuf, where each item of a list has its length).
//! Differs: JSON. Nothing in here recurses, so how deep something is nested does not matter, and what is kept of one item is bounded.

/// What of one object is read; etcd takes 1.5 MiB by default, and its limit is seldom raised above 10.
pub(super) const OBJECT_LIMIT: usize = 16 << 20;
/// The longest key of a list that is looked at, and the most of what is said of the list itself.
const KEY_LIMIT: usize = 64;
const METADATA_LIMIT: usize = 1 << 20;

/// What was sent is no list.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not a list: {0}")]
pub(super) struct NoList(&'static str);

/// How far into a value one is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Nest {
    depth: u64,
    string: bool,
    escaped: bool,
    /// Whether it is a number or a word, which ends where something else begins.
    bare: bool,
}

impl Nest {
    /// At the beginning of a value.
    pub(super) fn at(first: u8) -> Self {
        Self { bare: !matches!(first, b'{' | b'[' | b'"'), ..Self::default() }
    }

    /// Goes on; answers how many of these bytes belong to the value, and whether it ends with them.
    pub(super) fn run(&mut self, bytes: &[u8]) -> (usize, bool) {
        if self.bare {
            let end = bytes.iter().position(|byte| matches!(byte, b',' | b']' | b'}') || byte.is_ascii_whitespace());
            return (end.unwrap_or(bytes.len()), end.is_some());
        }
        for (at, byte) in bytes.iter().enumerate() {
            if self.escaped {
                self.escaped = false;
            } else if self.string {
                match byte {
                    b'\\' => self.escaped = true,
                    b'"' => self.string = false,
                    _ => {}
                }
            } else {
                match byte {
                    b'"' => self.string = true,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                    _ => {}
                }
            }
            if self.depth == 0 && !self.string && !self.escaped && matches!(byte, b'}' | b']' | b'"') {
                return (at + 1, true);
            }
        }
        (bytes.len(), false)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Start,
    /// Between the list's members.
    Members,
    Key {
        escaped: bool,
    },
    Colon,
    Value,
    InValue,
    Items,
    InItem,
    End,
}

/// Splits a list into its items, as it comes.
#[derive(Debug)]
pub(super) struct ListScan {
    place: Place,
    nest: Nest,
    key: Vec<u8>,
    held: Vec<u8>,
    whole: bool,
    limit: usize,
    metadata: Vec<u8>,
    kind: Vec<u8>,
}

impl ListScan {
    /// At the beginning of a list; of each item at most so much is kept.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            place: Place::Start,
            nest: Nest::default(),
            key: Vec::new(),
            held: Vec::new(),
            whole: true,
            limit,
            metadata: Vec::new(),
            kind: Vec::new(),
        }
    }

    /// Takes what comes next. `found` is told each item as soon as it is complete, and whether it is all there: of one that is too long
    /// it is told the beginning.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(&[u8], bool)) -> Result<(), NoList> {
        while let Some(&byte) = bytes.first() {
            let used = match self.place {
                Place::InValue | Place::InItem => self.inside(bytes, &mut found)?,
                Place::Value | Place::Items => usize::from(self.between(byte)),
                Place::Key { escaped } => {
                    self.in_key(byte, escaped);
                    1
                }
                Place::Start | Place::Members | Place::Colon | Place::End => {
                    self.punctuation(byte)?;
                    1
                }
            };
            bytes = bytes.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    /// All has come. Answers what is said of the list itself: its kind, and its metadata as an object.
    pub(super) fn end(self) -> Result<(Vec<u8>, Vec<u8>), NoList> {
        match self.place {
            Place::End => Ok((self.kind, self.metadata)),
            _ => Err(NoList("it broke off")),
        }
    }

    fn punctuation(&mut self, byte: u8) -> Result<(), NoList> {
        self.place = match (self.place, byte) {
            (place, byte) if byte.is_ascii_whitespace() => place,
            (Place::Start, b'{') => Place::Members,
            (Place::Members, b',') => Place::Members,
            (Place::Members, b'}') => Place::End,
            (Place::Members, b'"') => {
                self.key.clear();
                Place::Key { escaped: false }
            }
            (Place::Colon, b':') => Place::Value,
            (Place::Start, _) => return Err(NoList("it does not begin as an object")),
            (Place::End, _) => return Err(NoList("something follows it")),
            _ => return Err(NoList("something other than a member is in it")),
        };
        Ok(())
    }

    fn in_key(&mut self, byte: u8, escaped: bool) {
        self.place = match byte {
            b'"' if !escaped => Place::Colon,
            _ => Place::Key { escaped: byte == b'\\' && !escaped },
        };
        if self.place != Place::Colon && self.key.len() < KEY_LIMIT {
            self.key.push(byte);
        }
    }

    /// Before a value, or between items: whether the byte is used up.
    fn between(&mut self, byte: u8) -> bool {
        if byte.is_ascii_whitespace() {
            return true;
        }
        match (self.place, byte) {
            (Place::Value, b'[') if self.key == b"items" => {
                self.place = Place::Items;
                return true;
            }
            (Place::Items, b']') => {
                self.place = Place::Members;
                return true;
            }
            (Place::Items, b',') => return true,
            (Place::Value, _) => self.place = Place::InValue,
            _ => self.place = Place::InItem,
        }
        self.nest = Nest::at(byte);
        self.held.clear();
        self.whole = true;
        false
    }

    fn inside(&mut self, bytes: &[u8], found: &mut impl FnMut(&[u8], bool)) -> Result<usize, NoList> {
        let item = self.place == Place::InItem;
        let (used, ended) = self.nest.run(bytes);
        if used == 0 && self.held.is_empty() {
            return Err(NoList("a value is missing"));
        }
        let limit = match self.key.as_slice() {
            _ if item => self.limit,
            b"metadata" | b"kind" => METADATA_LIMIT,
            _ => 1,
        };
        let room = limit.saturating_sub(self.held.len());
        self.whole &= used <= room;
        self.held.extend_from_slice(bytes.get(..used.min(room)).unwrap_or_default());
        if !ended {
            return Ok(used);
        }
        if item {
            found(&self.held, self.whole);
            // What one big item took is given back.
            if self.held.capacity() > METADATA_LIMIT {
                self.held = Vec::new();
            }
            self.place = Place::Items;
            return Ok(used);
        }
        match self.key.as_slice() {
            b"metadata" | b"kind" if !self.whole => return Err(NoList("its metadata are too long")),
            b"metadata" => self.metadata = std::mem::take(&mut self.held),
            b"kind" => self.kind = std::mem::take(&mut self.held),
            _ => {}
        }
        self.place = Place::Members;
        Ok(used)
    }
}
