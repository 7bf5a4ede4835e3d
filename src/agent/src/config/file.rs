//! What the configuration file and the drop-ins say.
//! Upstream: cmd/kubelet/app/server.go (loadConfigFile, mergeKubeletConfigurations), pkg/kubelet/kubeletconfig/configfiles.
//! Differs: no lenient decoding: an unknown field is an error, reported with all others (API-243).

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::decode::{Misfit, decode};
use super::defaults::{API_VERSION, KIND, set_defaults, set_eviction_defaults};
use super::problem::Problem;
use super::schema::KubeletConfiguration;

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Its absolute path.
    pub path: PathBuf,
    /// What is in it.
    pub content: Vec<u8>,
}

/// Reads the `--config` file. A relative path is below `working_dir`.
pub(super) fn read_config(path: &str, working_dir: &Path) -> Result<SourceFile, Problem> {
    let path = working_dir.join(path);
    match fs::read(&path) {
        Ok(content) => Ok(SourceFile { path, content }),
        Err(error) => Err(unreadable("--config", &path, &error)),
    }
}

/// Reads the `*.conf` files of the `--config-dir`, in the order in which they apply: each directory by name, depth first (API-241).
pub(super) fn read_drop_ins(dir: &str, working_dir: &Path) -> Result<Vec<SourceFile>, Problem> {
    let mut files = Vec::new();
    walk(&working_dir.join(dir), &mut files).map_err(|(path, error)| unreadable("--config-dir", &path, &error))?;
    Ok(files)
}

fn walk(dir: &Path, files: &mut Vec<SourceFile>) -> Result<(), (PathBuf, io::Error)> {
    let at = |error| (dir.to_owned(), error);
    let mut entries: Vec<_> = fs::read_dir(dir).map_err(at)?.collect::<Result<_, _>>().map_err(at)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_type().map_err(|error| (path.clone(), error))?.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "conf") {
            let content = fs::read(&path).map_err(|error| (path.clone(), error))?;
            files.push(SourceFile { path, content });
        }
    }
    Ok(())
}

fn unreadable(flag: &str, path: &Path, error: &io::Error) -> Problem {
    let path = path.display();
    let message = format!("failed to load kubelet config file, path: {path}, error: {error}");
    Problem::new(flag, &path, message, format!("make {path} readable, or change {flag}"))
}

/// What the `--config` file amounts to: its fields, the defaults, paths made absolute, eviction defaults.
pub(super) fn base(file: &SourceFile, problems: &mut Vec<Problem>) -> KubeletConfiguration {
    let path = file.path.display().to_string();
    let Some(document) = parse(file, problems) else { return KubeletConfiguration::default() };
    let mut config = fields(document, &path, problems);
    set_defaults(&mut config);
    absolute_paths(&mut config, file.path.parent().unwrap_or(Path::new("/")));
    set_eviction_defaults(&mut config);
    config
}

/// Puts drop-ins on top, each as a JSON merge patch; then fills in defaults once more. Relative paths stay (NODE-024).
pub(super) fn merge(config: KubeletConfiguration, drop_ins: &[SourceFile], problems: &mut Vec<Problem>) -> KubeletConfiguration {
    let Ok(mut merged) = serde_json::to_value(&config) else { return config };
    if let (Some(fields), Ok(headers)) = (merged.as_object_mut(), serde_json::to_value(config.static_pod_url_header.0.reveal())) {
        fields.insert("staticPodURLHeader".to_owned(), headers);
    }
    for file in drop_ins {
        let path = file.path.display().to_string();
        let Some(patch) = parse(file, problems) else { continue };
        // Each file is checked by itself, so that what is wrong is named where it stands.
        let before = problems.len();
        let _checked = fields(patch.clone(), &path, problems);
        if problems.len() == before {
            merge_patch(&mut merged, patch);
        }
    }
    let (mut config, _) = decode::<KubeletConfiguration>(merged);
    set_defaults(&mut config);
    config
}

/// JSON merge patch, RFC 7386.
fn merge_patch(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(&key);
        } else {
            merge_patch(fields.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// Reads YAML or JSON and checks what it claims to be.
fn parse(file: &SourceFile, problems: &mut Vec<Problem>) -> Option<Value> {
    let path = file.path.display().to_string();
    let mut fail = |field: &str, value: String, message: String, remedy: &str| {
        problems.push(Problem::new(field, value, message, remedy).in_file(&path));
        None
    };
    let Ok(text) = std::str::from_utf8(&file.content) else {
        return fail("", String::new(), format!("kubelet config file {path:?} is not UTF-8"), "write it anew as UTF-8");
    };
    if text.trim().is_empty() {
        return fail("", String::new(), format!("kubelet config file {path:?} was empty"), "give at least apiVersion and kind");
    }
    let parsed = if text.trim_start().starts_with('{') {
        serde_json::from_str::<Value>(text).map_err(|error| error.to_string())
    } else {
        serde_saphyr::from_str::<Value>(text).map_err(|error| error.to_string())
    };
    let document = match parsed {
        Ok(document @ Value::Object(_)) => document,
        Ok(_) => {
            return fail(
                "",
                String::new(),
                format!("kubelet config file {path:?} holds no fields"),
                "give apiVersion, kind and fields",
            );
        }
        Err(error) => return fail("", String::new(), format!("failed to decode {path}: {error}"), "correct the syntax"),
    };
    for (field, wanted) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        match document.get(field).and_then(Value::as_str) {
            Some(found) if found == wanted => {}
            Some(found) => {
                let message = format!("no kind {KIND:?} is registered for {field} {found:?}");
                return fail(field, found.to_owned(), message, &format!("set {field}: {wanted}"));
            }
            None => return fail(field, String::new(), format!("Object '{field}' is missing"), &format!("set {field}: {wanted}")),
        }
    }
    Some(document)
}

/// Reads the fields of a document; what does not fit goes to `problems`.
fn fields(document: Value, path: &str, problems: &mut Vec<Problem>) -> KubeletConfiguration {
    let (config, misfits) = decode::<KubeletConfiguration>(document);
    for (field, (misfit, value)) in misfits {
        let value = if field.starts_with("staticPodURLHeader") { "<masked>".to_owned() } else { value.to_string() };
        let problem = match misfit {
            Misfit::Unknown(near) => {
                let remedy = match near {
                    Some(near) => {
                        let parent = field.rfind('.').map_or("", |dot| &field[..=dot]);
                        format!("did you mean {parent}{near}?")
                    }
                    None => "remove it; KubeletConfiguration v1beta1 has no such field".to_owned(),
                };
                Problem::new(&field, value, format!("unknown field \"{field}\""), remedy)
            }
            Misfit::Value(_) if value == "<masked>" => Problem::new(
                &field,
                value,
                format!("field \"{field}\" has a wrong value"),
                "give a list of strings for each header",
            ),
            Misfit::Value(reason) => Problem::new(
                &field,
                &value,
                format!("field \"{field}\" has a wrong value: {reason}"),
                "give a value of the field's type",
            ),
        };
        problems.push(problem.in_file(path));
    }
    config
}

/// Makes the paths that upstream lists in KubeletConfigurationPathRefs absolute, below the file's directory.
fn absolute_paths(config: &mut KubeletConfiguration, dir: &Path) {
    let mut paths = vec![
        &mut config.static_pod_path,
        &mut config.authentication.x509.client_ca_file,
        &mut config.tls_cert_file,
        &mut config.tls_private_key_file,
        &mut config.volume_plugin_dir,
        &mut config.pod_logs_dir,
    ];
    paths.extend(config.resolver_config.as_mut());
    for path in paths {
        if !path.is_empty() && !path.starts_with('/') {
            *path = clean(&dir.join(&*path));
        }
    }
}

/// A path without `.`, `..` and doubled slashes, as Go's filepath.Clean writes it. Symbolic links are not looked at.
#[must_use]
pub(super) fn clean(path: &Path) -> String {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if cleaned.file_name().is_some_and(|name| name != "..") => {
                cleaned.pop();
            }
            Component::ParentDir if cleaned.has_root() => {}
            other => cleaned.push(other),
        }
    }
    if cleaned.as_os_str().is_empty() { ".".to_owned() } else { cleaned.display().to_string() }
}
