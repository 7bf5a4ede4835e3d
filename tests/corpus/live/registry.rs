//! A registry on loopback for the cases about pulling. Every repository holds a busybox of its own; the first part of its name says how
//! the registry behaves: `open-` for anyone, `private-` for user:pass, `fail500-`, `fail429-` and `fail404-`, `slow-` takes a second
//! for each answer; and how its image is: `user-NAME` runs as that user, `entry-` has an entrypoint, `stop-` a signal to stop by.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::super::case::REGISTRY;
use super::ears::lock;
use crate::live::image::{Blobs, Recipe, blobs};

/// How long `slow-` takes.
const SLOW: Duration = Duration::from_secs(1);
/// `user:pass`, as HTTP has it.
const LOGIN: &str = "Basic dXNlcjpwYXNz";

/// What is kept: all blobs, and each repository's manifest.
#[derive(Default)]
struct Store {
    blobs: Blobs,
    manifests: BTreeMap<String, String>,
}

/// An answer: code, media type, digest, what it asks for, and its body.
struct Answer {
    code: u16,
    kind: &'static str,
    digest: String,
    body: Vec<u8>,
}

/// Serves for as long as the process lives, and tells the runtime, whose folder that is, to use plain HTTP.
pub(super) fn serve(registries: &Path) -> anyhow::Result<()> {
    let folder = registries.join(REGISTRY);
    fs::create_dir_all(&folder)?;
    let text = format!("server = \"http://{REGISTRY}\"\n[host.\"http://{REGISTRY}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
    fs::write(folder.join("hosts.toml"), text)?;
    let listener = TcpListener::bind(REGISTRY)?;
    let store = Arc::new(Mutex::new(Store::default()));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let store = Arc::clone(&store);
            std::thread::spawn(move || answer(stream, &store));
        }
    });
    Ok(())
}

/// Answers one request, and closes.
fn answer(mut stream: TcpStream, store: &Mutex<Store>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let logged_in = headers.iter().any(|line| {
        line.split_once(": ").is_some_and(|(name, value)| name.eq_ignore_ascii_case("authorization") && value == LOGIN)
    });
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let answer = found(path.split('?').next().unwrap_or_default(), logged_in, store);
    let mut head = format!(
        "HTTP/1.1 {} {}\r\nConnection: close\r\nContent-Type: {}\r\nContent-Length: {}\r\n",
        answer.code,
        http::StatusCode::from_u16(answer.code).ok().and_then(|code| code.canonical_reason()).unwrap_or_default(),
        answer.kind,
        answer.body.len()
    );
    if answer.code == 401 {
        head += "WWW-Authenticate: Basic realm=\"bench\"\r\n";
    }
    if !answer.digest.is_empty() {
        head += &format!("Docker-Content-Digest: sha256:{}\r\n", answer.digest);
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    if method == "HEAD" { Ok(()) } else { stream.write_all(&answer.body) }
}

fn refused(code: u16, name: &str) -> Answer {
    let message = name.to_lowercase().replace('_', " ");
    let message = if code == 401 { "authentication required".to_owned() } else { message };
    let body = json!({"errors": [{"code": name, "message": message}]}).to_string().into_bytes();
    Answer { code, kind: "application/json", digest: String::new(), body }
}

/// `/v2/REPOSITORY/manifests/REFERENCE` or `/v2/REPOSITORY/blobs/DIGEST`.
fn found(path: &str, logged_in: bool, store: &Mutex<Store>) -> Answer {
    let rest = path.strip_prefix("/v2").unwrap_or(path).trim_start_matches('/');
    if rest.is_empty() {
        return Answer { code: 200, kind: "application/json", digest: String::new(), body: b"{}".to_vec() };
    }
    let mut parts = rest.rsplitn(3, '/');
    let (Some(reference), Some(kind), Some(repository)) = (parts.next(), parts.next(), parts.next()) else {
        return refused(404, "NAME_UNKNOWN");
    };
    let manner = repository.split('/').next().unwrap_or_default();
    match manner.split('-').next().unwrap_or_default() {
        "slow" => std::thread::sleep(SLOW),
        "fail500" => return refused(500, "UNKNOWN"),
        "fail429" => return refused(429, "TOOMANYREQUESTS"),
        "fail404" => return refused(404, "NAME_UNKNOWN"),
        "private" if !logged_in => return refused(401, "UNAUTHORIZED"),
        _ => {}
    }
    let mut store = lock(store);
    let Some(manifest) = manifest(&mut store, repository, manner) else { return refused(500, "UNKNOWN") };
    let (digest, kind) = match kind {
        "manifests" if ["1", "latest", &format!("sha256:{manifest}")].contains(&reference) => {
            (manifest, "application/vnd.oci.image.manifest.v1+json")
        }
        "manifests" => return refused(404, "MANIFEST_UNKNOWN"),
        _ => (reference.trim_start_matches("sha256:").to_owned(), "application/octet-stream"),
    };
    match store.blobs.get(&digest) {
        Some(body) => Answer { code: 200, kind, body: body.clone(), digest },
        None => refused(404, "BLOB_UNKNOWN"),
    }
}

/// The digest of a repository's manifest, which is made when it is first asked for.
fn manifest(store: &mut Store, repository: &str, manner: &str) -> Option<String> {
    if let Some(known) = store.manifests.get(repository) {
        return Some(known.clone());
    }
    let (manifests, blobs) = blobs(&[Recipe { name: repository.to_owned(), ..of(manner) }]).ok()?;
    let digest = manifests[0]["digest"].as_str()?.trim_start_matches("sha256:").to_owned();
    store.blobs.extend(blobs);
    store.manifests.insert(repository.to_owned(), digest.clone());
    Some(digest)
}

/// The image of a repository of that manner.
fn of(manner: &str) -> Recipe {
    let mut config = super::bed::shell();
    match manner.split_once('-') {
        Some(("user", name)) => config["User"] = name.into(),
        Some(("entry", _)) => {
            let more = json!({
                "Entrypoint": ["/bin/echo", "entry"], "Cmd": ["cmd"], "Env": ["PATH=/bin", "FROM_IMAGE=yes"], "WorkingDir": "/tmp",
            });
            more.as_object().into_iter().flatten().for_each(|(key, value): (&String, &Value)| config[key] = value.clone());
        }
        Some(("stop", _)) => config["StopSignal"] = "SIGUSR1".into(),
        _ => {}
    }
    Recipe { name: String::new(), config, files: &super::bed::ROOTS }
}
