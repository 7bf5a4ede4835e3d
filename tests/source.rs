//! The repository's files, and enough of Rust's lexical grammar to tell code from comments and literals, and where functions
//! begin and end.

use std::path::{Path, PathBuf};

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files below a folder of the repository (`.` for all), by path, without what is built or git's.
pub(crate) fn files_below(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(root().join(&folder)) else { continue };
        for entry in entries {
            let entry = entry.expect("a folder of the repository can be read");
            let name = entry.file_name().into_string().expect("file names are text");
            let path = if folder == "." { name.clone() } else { format!("{folder}/{name}") };
            let kind = entry.file_type().expect("a file has a type");
            if name == "target" || name == ".git" {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A file's text; `None` if it is not text.
pub(crate) fn text_of(path: &str) -> Option<String> {
    std::fs::read_to_string(root().join(path)).ok()
}

/// All Rust files that people wrote.
pub(crate) fn sources() -> Vec<Source> {
    let sources: Vec<Source> = ["src", "sim", "proto", "tests"]
        .iter()
        .flat_map(|folder| files_below(folder))
        .filter(|path| path.ends_with(".rs") && !is_generated(path))
        .map(|path| {
            let text = text_of(&path).unwrap_or_else(|| panic!("{path}: not UTF-8"));
            Source::new(&path, &text)
        })
        .collect();
    assert!(sources.len() > 50, "only {} Rust files found below {}", sources.len(), root().display());
    sources
}

/// Whether a file is written by a program, so that rules about writing do not bind it.
fn is_generated(path: &str) -> bool {
    path.starts_with("proto/src/gen/")
}

/// A Rust file.
pub(crate) struct Source {
    /// Path from the repository's root.
    pub(crate) path: String,
    /// Its lines.
    pub(crate) lines: Vec<String>,
    /// Its lines with comments and the contents of literals blanked out.
    pub(crate) code: Vec<String>,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// The line of its name, from 1.
    pub(crate) line: usize,
    /// The line of its closing brace.
    pub(crate) last_line: usize,
    /// Lines between its braces that hold code.
    pub(crate) length: usize,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let owned = |text: &str| text.lines().map(str::to_owned).collect();
        Self { path: path.to_owned(), lines: owned(text), code: owned(&blanked(text)) }
    }

    /// Lines of code that contain a word, with their numbers from 1. A word ends where no letter, digit or underscore follows.
    pub(crate) fn lines_with<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.code.iter().enumerate().filter(move |(_, line)| contains_word(line, word)).map(|(number, _)| number + 1)
    }

    /// All functions with a body.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let text = self.code.join("\n");
        let mut functions = Vec::new();
        for (at, _) in text.match_indices("fn ") {
            if at > 0 && is_word(text.as_bytes()[at - 1]) {
                continue;
            }
            let name: String = text[at + 3..].trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if name.is_empty() {
                continue;
            }
            let Some((open, close)) = body(&text, at) else { continue };
            let length = text[open + 1..close].lines().filter(|line| !line.trim().is_empty()).count();
            let line_of = |at: usize| text[..at].matches('\n').count() + 1;
            functions.push(Function { name, line: line_of(at), last_line: line_of(close), length });
        }
        functions
    }
}

pub(crate) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

pub(crate) fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line.as_bytes()[..at].last();
        let after = line.as_bytes().get(at + word.len());
        let starts = !before.is_some_and(|b| is_word(*b)) || !is_word(word.as_bytes()[0]);
        let ends = !after.is_some_and(|b| is_word(*b)) || !word.as_bytes().last().is_some_and(|b| is_word(*b));
        starts && ends
    })
}

/// Where the body of the function that begins at `at` opens and closes; `None` for one without a body.
fn body(text: &str, at: usize) -> Option<(usize, usize)> {
    let mut brackets = 0_i32;
    let mut braces = 0_i32;
    let mut open = None;
    for (offset, byte) in text.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets -= 1,
            b';' if brackets == 0 && open.is_none() => return None,
            b'{' if brackets == 0 || open.is_some() => {
                open = open.or(Some(offset));
                braces += 1;
            }
            b'}' if open.is_some() => {
                braces -= 1;
                if braces == 0 {
                    return open.map(|open| (open, offset));
                }
            }
            _ => {}
        }
    }
    None
}

/// The text with comments and the contents of literals turned into spaces; lines stay where they are.
fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut kept = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => block_comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' if !previous_is_word(bytes, at) || is_byte_prefix(bytes, at) => match raw_string_end(bytes, at) {
                Some(end) => end,
                None => at,
            },
            b'\'' => char_end(bytes, at),
            _ => at,
        };
        if end > at {
            for byte in &mut kept[at..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
            at = end;
        } else {
            at += 1;
        }
    }
    String::from_utf8(kept).expect("only whole characters were blanked")
}

fn previous_is_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && is_word(bytes[at - 1])
}

fn is_byte_prefix(bytes: &[u8], at: usize) -> bool {
    at > 0 && matches!(bytes[at - 1], b'b' | b'c') && !previous_is_word(bytes, at - 1)
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |length| at + length)
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of `r"..."` or `r#"..."#` that begins at `start`; `None` if none does.
fn raw_string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let hashes = bytes[start + 1..].iter().take_while(|b| **b == b'#').count();
    let quote = start + 1 + hashes;
    if bytes.get(quote) != Some(&b'"') {
        return None;
    }
    let mut end = vec![b'"'];
    end.resize(1 + hashes, b'#');
    let length = bytes[quote + 1..].windows(end.len()).position(|window| window == end)?;
    Some(quote + 1 + length + end.len())
}

/// The end of a character literal that begins at `start`, or `start` for a lifetime.
fn char_end(bytes: &[u8], start: usize) -> usize {
    let rest = &bytes[start + 1..];
    if rest.first() == Some(&b'\\') {
        let close = rest.iter().skip(2).position(|b| *b == b'\'');
        return close.map_or(start, |length| start + 1 + 2 + length + 1);
    }
    let width = std::str::from_utf8(&rest[..rest.len().min(4)])
        .or_else(|e| std::str::from_utf8(&rest[..e.valid_up_to()]))
        .ok()
        .and_then(|text| text.chars().next())
        .map_or(0, char::len_utf8);
    if width > 0 && rest.get(width) == Some(&b'\'') { start + 1 + width + 1 } else { start }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        Source::new("a.rs", text).code.join("\n")
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = "a // fn b() {\nlet c = \"{ \\\" fn\"; /* { /* } */ */ let d = r#\"\"{\"#; let e = '{'; let f = b'\\'';";
        let kept = code(text);
        assert!(!kept.contains('{') && !kept.contains("fn"), "{kept}");
        assert!(kept.contains("let d =") && kept.contains("let f ="), "{kept}");
    }

    #[test]
    fn lifetimes_are_code() {
        assert_eq!(code("fn a<'a>(b: &'a str) -> &'a str { b }"), "fn a<'a>(b: &'a str) -> &'a str { b }");
    }

    #[test]
    fn functions_are_measured_by_lines_of_code_inside_their_braces() {
        let text = "impl A {\n    fn a(&self) -> [u8; 2] {\n        // why\n\n        if b {\n            c()\n        }\n    }\n}\ntrait B { fn d(); }\n";
        let functions = Source::new("a.rs", text).functions();
        assert_eq!(functions, [Function { name: "a".to_owned(), line: 2, last_line: 8, length: 3 }]);
    }

    #[test]
    fn a_word_is_not_found_inside_another() {
        assert!(contains_word("pub unsafe fn a()", "unsafe"));
        assert!(!contains_word("#![deny(unsafe_code)]", "unsafe"));
        assert!(contains_word("x.await?", ".await"));
    }
}
