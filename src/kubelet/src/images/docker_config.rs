//! Decides what a docker config says: which credentials it gives for which registries.
//! Upstream: pkg/credentialprovider/config.go.
//! Differs: what is wrong with a file is told without a word of what is in it.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, NO_PAD};
use serde::Deserialize;

/// As Go's `base64.StdEncoding` and `RawStdEncoding`, which do not look at the bits behind the last byte.
const PADDED: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));
const UNPADDED: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, NO_PAD.with_decode_allow_trailing_bits(true));

/// A user and a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// Who.
    pub username: String,
    /// The password.
    pub password: String,
    /// Goes into the hash of the credentials, and nowhere else.
    pub email: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Logins by what they are for: a host, port and path, perhaps with globs.
pub type DockerConfig = BTreeMap<String, Login>;

#[derive(Deserialize, Default)]
#[serde(default)]
struct ConfigJson {
    auths: Option<BTreeMap<String, Option<EntryJson>>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct EntryJson {
    username: Option<String>,
    password: Option<String>,
    email: Option<String>,
    auth: Option<String>,
}

/// What a `config.json` says.
///
/// # Errors
/// It is none: why, without what is in it.
pub fn config_json(bytes: &[u8]) -> Result<DockerConfig, String> {
    let config: ConfigJson = serde_json::from_slice(bytes).map_err(|error| unreadable(&error))?;
    logins(config.auths.unwrap_or_default())
}

/// What a `.dockercfg`, the older kind, says.
///
/// # Errors
/// It is none: why, without what is in it.
pub fn dockercfg(bytes: &[u8]) -> Result<DockerConfig, String> {
    let entries: Option<BTreeMap<String, Option<EntryJson>>> = serde_json::from_slice(bytes).map_err(|error| unreadable(&error))?;
    logins(entries.unwrap_or_default())
}

fn unreadable(error: &serde_json::Error) -> String {
    // What the parser says may quote what it has read.
    format!("error occurred while trying to unmarshal json (line {}, column {})", error.line(), error.column())
}

fn logins(entries: BTreeMap<String, Option<EntryJson>>) -> Result<DockerConfig, String> {
    entries.into_iter().map(|(location, entry)| Ok((location, login(entry.unwrap_or_default())?))).collect()
}

fn login(entry: EntryJson) -> Result<Login, String> {
    let EntryJson { username, password, email, auth } = entry;
    let (mut username, mut password) = (username.unwrap_or_default(), password.unwrap_or_default());
    if let Some(auth) = auth.filter(|auth| !auth.is_empty()) {
        (username, password) = decode_auth(&auth)?;
    }
    Ok(Login { username, password, email: email.unwrap_or_default() })
}

/// Padded or not, by whether it ends as if it were.
fn decode_auth(auth: &str) -> Result<(String, String), String> {
    let engine = if auth.trim().ends_with('=') { PADDED } else { UNPADDED };
    // Go's decoder passes over line ends.
    let bytes: Vec<u8> = auth.bytes().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
    let decoded = engine.decode(&bytes).map_err(|error| {
        let at = match error {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol { offset: at, .. } => at,
            base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => bytes.len(),
        };
        format!("illegal base64 data at input byte {at}")
    })?;
    let text = String::from_utf8_lossy(&decoded);
    let Some((username, password)) = text.split_once(':') else {
        return Err("unable to parse auth field, must be formatted as base64(username:password)".to_owned());
    };
    Ok((username.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(entry: &str) -> Result<(String, String), String> {
        let config = config_json(format!(r#"{{"auths": {{"r.example.com": {entry}}}}}"#).as_bytes())?;
        let login = config.into_values().next().unwrap();
        Ok((login.username, login.password))
    }

    // POD-205: TestDecodeDockerConfigFieldAuth (config_test.go): padded, unpadded, with a line end, without a colon.
    #[test]
    fn auth_field_is_base64_of_user_and_password_padded_or_not() {
        let foo_bar = Ok(("foo".to_owned(), "bar".to_owned()));
        assert_eq!(one(r#"{"auth": "Zm9vOmJhcg=="}"#), foo_bar);
        assert_eq!(one(r#"{"auth": "Zm9vOmJhcg"}"#), foo_bar);
        assert_eq!(one(r#"{"auth": "Zm9vOmJhcg==\n"}"#), foo_bar);
        assert_eq!(one(r#"{"auth": "Zm9vOmJhcg==", "username": "x", "password": "y"}"#), foo_bar);
        assert_eq!(
            one(r#"{"auth": "Zm9vYmFyCg=="}"#).unwrap_err(),
            "unable to parse auth field, must be formatted as base64(username:password)"
        );
        assert!(one(r#"{"auth": "pants"}"#).unwrap_err().starts_with("illegal base64 data at input byte "));
        assert_eq!(one(r#"{"username": "foo", "password": "bar", "identitytoken": "x"}"#), foo_bar);
    }

    #[test]
    fn what_is_wrong_is_told_without_what_is_in_it() {
        let why = config_json(br#"{"auths": {"r": {"username": "u", "password": 12345}}}"#).err().unwrap();
        assert!(why.starts_with("error occurred while trying to unmarshal json") && !why.contains("12345"), "{why}");
        assert!(config_json(br#"{"auths": null, "credsStore": "x"}"#).unwrap().is_empty());
        assert_eq!(dockercfg(br#"{"r.io": {"username": "u", "password": "p"}}"#).unwrap().len(), 1);
    }
}
