//! Container images made of the machine's own busybox, or of one program: one-layer OCI archives that `ctr images import` takes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::requirements::BUSYBOX;

/// The image of every test pod.
pub(crate) const BUSYBOX_IMAGE: &str = "docker.io/library/busybox:1.36";
/// The image of every PodSandbox.
pub(crate) const PAUSE_IMAGE: &str = "registry.k8s.io/pause:3.10";

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &[u8] = b"root:x:0:\nnogroup:x:65534:\n";

enum Content<'a> {
    Directory,
    File(&'a [u8]),
    /// Another name of a file that is there.
    Link(&'a str),
}

/// Blobs by their SHA-256.
pub(crate) type Blobs = BTreeMap<String, Vec<u8>>;

/// An image of busybox and a few files.
pub(crate) struct Recipe {
    /// What it is called.
    pub(crate) name: String,
    /// The image's configuration: its environment, its command.
    pub(crate) config: Value,
    /// Files beside busybox, by their paths; their folders are there.
    pub(crate) files: &'static [(&'static str, &'static [u8])],
}

/// The images of every test: a shell for pods, and what sandboxes run.
pub(crate) fn usual() -> [Recipe; 2] {
    let files: &[(&str, &[u8])] = &[("etc/passwd", PASSWD), ("etc/group", GROUP)];
    // How it ends does not matter: the runtime kills it.
    let sleep = json!({"Env": ["PATH=/bin"], "Entrypoint": ["/bin/busybox", "sleep", "2147483647"]});
    [
        Recipe { name: BUSYBOX_IMAGE.to_owned(), config: json!({"Env": ["PATH=/bin"], "Cmd": ["sh"]}), files },
        Recipe { name: PAUSE_IMAGE.to_owned(), config: sleep, files },
    ]
}

/// Images as registries keep them: the descriptions of their manifests, and all blobs by their SHA-256.
///
/// # Errors
/// If busybox cannot be read or run.
pub(crate) fn blobs(recipes: &[Recipe]) -> anyhow::Result<(Vec<Value>, Blobs)> {
    let busybox = std::fs::read(BUSYBOX).context(BUSYBOX)?;
    let listed = Command::new(BUSYBOX).arg("--list").output().context("busybox --list")?;
    let listed = String::from_utf8(listed.stdout)?;
    let mut blobs = Blobs::new();
    let mut manifests = Vec::new();
    for recipe in recipes {
        let layer = layer(&busybox, listed.lines().filter(|applet| *applet != "busybox"), recipe.files);
        manifests.push(manifest(&mut blobs, &layer, &recipe.name, &recipe.config));
        blobs.insert(layer_digest(&layer), layer);
    }
    Ok((manifests, blobs))
}

/// Images in one archive.
///
/// # Errors
/// If busybox cannot be read or run.
pub(crate) fn archive(recipes: &[Recipe]) -> anyhow::Result<Vec<u8>> {
    let (manifests, blobs) = blobs(recipes)?;
    Ok(pack(&manifests, &blobs))
}

/// An archive with an image of that name, of one program in `/usr/local/bin` and the libraries that it is linked with.
///
/// # Errors
/// If they cannot be read.
pub(crate) fn archive_of(name: &str, program: &Path) -> anyhow::Result<Vec<u8>> {
    let file = program.file_name().and_then(|file| file.to_str()).context("a program's name")?;
    let mut layer = Vec::new();
    entry(&mut layer, &format!("usr/local/bin/{file}"), 0o755, &Content::File(&std::fs::read(program)?));
    let linked = Command::new("ldd").arg(program).output().context("ldd")?;
    for word in String::from_utf8_lossy(&linked.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
        entry(&mut layer, word.trim_start_matches('/'), 0o755, &Content::File(&std::fs::read(word)?));
    }
    entry(&mut layer, "tmp", 0o1777, &Content::Directory);
    finish(&mut layer);
    let mut blobs = Blobs::new();
    let image = manifest(&mut blobs, &layer, name, &json!({"Env": ["PATH=/usr/local/bin"]}));
    blobs.insert(layer_digest(&layer), layer);
    Ok(pack(&[image], &blobs))
}

fn pack(images: &[Value], blobs: &Blobs) -> Vec<u8> {
    let index =
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": images}).to_string();
    let mut tar = Vec::new();
    entry(&mut tar, "oci-layout", 0o644, &Content::File(br#"{"imageLayoutVersion":"1.0.0"}"#));
    entry(&mut tar, "index.json", 0o644, &Content::File(index.as_bytes()));
    for (digest, blob) in blobs {
        entry(&mut tar, &format!("blobs/sha256/{digest}"), 0o644, &Content::File(blob));
    }
    finish(&mut tar);
    tar
}

fn layer<'a>(busybox: &[u8], applets: impl Iterator<Item = &'a str>, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for directory in ["bin", "dev", "etc", "home", "proc", "root", "run", "sys", "var"] {
        entry(&mut tar, directory, 0o755, &Content::Directory);
    }
    entry(&mut tar, "tmp", 0o1777, &Content::Directory);
    entry(&mut tar, "bin/busybox", 0o755, &Content::File(busybox));
    for applet in applets {
        entry(&mut tar, &format!("bin/{applet}"), 0o755, &Content::Link("bin/busybox"));
    }
    for (path, content) in files {
        entry(&mut tar, path, 0o644, &Content::File(content));
    }
    finish(&mut tar);
    tar
}

fn layer_digest(layer: &[u8]) -> String {
    Sha256::digest(layer).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Adds an image's blobs; its descriptor.
fn manifest(blobs: &mut Blobs, layer: &[u8], name: &str, config: &Value) -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let created = "2026-01-01T00:00:00Z";
    let diff_id = format!("sha256:{}", layer_digest(layer));
    let config = json!({
        "architecture": architecture, "os": "linux", "created": created, "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]}, "history": [{"created": created, "created_by": name}],
    });
    let config = config.to_string().into_bytes();
    let describe = |kind: &str, blob: &[u8]| {
        let kind = format!("application/vnd.oci.image.{kind}");
        json!({"mediaType": kind, "digest": format!("sha256:{}", layer_digest(blob)), "size": blob.len()})
    };
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("config.v1+json", &config), "layers": [describe("layer.v1.tar", layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut described = describe("manifest.v1+json", &manifest);
    described["platform"] = json!({"architecture": architecture, "os": "linux"});
    described["annotations"] = json!({"io.containerd.image.name": name});
    for blob in [config, manifest] {
        blobs.insert(layer_digest(&blob), blob);
    }
    described
}

/// Adds one entry in the ustar format, all owned by root and of no age, so that the same busybox gives the same image.
fn entry(tar: &mut Vec<u8>, name: &str, mode: u32, content: &Content<'_>) {
    let (kind, link, data): (u8, &str, &[u8]) = match content {
        Content::Directory => (b'5', "", &[]),
        Content::File(data) => (b'0', "", data),
        Content::Link(target) => (b'1', target, &[]),
    };
    let mut header = [0_u8; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", data.len()));
    put(136, "00000000000");
    put(148, "        ");
    put(157, link);
    put(257, "ustar");
    put(263, "00");
    header[156] = kind;
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    tar.extend_from_slice(&header);
    tar.extend_from_slice(data);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

fn finish(tar: &mut Vec<u8>) {
    tar.resize(tar.len() + 1024, 0);
}
