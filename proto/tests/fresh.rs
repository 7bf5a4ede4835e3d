//! Keeps src/gen what the .proto files say; `cargo proto` writes it anew.
//! Upstream: hack/update-codegen.sh and hack/verify-codegen.sh.
//! Differs: no protoc on the machine, and no build script: the generated code is read like any other.

use std::fs;
use std::path::Path;

use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FieldDescriptorProto};

/// The serde attributes of a field: upstream's JSON has the proto's own name and leaves defaults out.
fn json_attribute(field: &FieldDescriptorProto) -> String {
    let mut attribute = "skip_serializing_if = \"crate::json::is_default\"".to_owned();
    if field.name().contains(|c: char| c.is_ascii_uppercase()) {
        attribute += &format!(", rename = \"{}\"", field.name());
    }
    if field.r#type() == Type::Bytes {
        attribute += ", with = \"crate::json::text\"";
    }
    format!("#[serde({attribute})]")
}

/// The attributes of a message's fields and of those nested in it. What is one of several has none: serde knows it by its name.
fn json_attributes(path: &str, message: &DescriptorProto, into: &mut Vec<(String, String)>) {
    let path = format!("{path}.{}", message.name());
    let alone = message.field.iter().filter(|field| field.oneof_index.is_none());
    into.extend(alone.map(|field| (format!("{path}.{}", field.name()), json_attribute(field))));
    let is_map = |nested: &&DescriptorProto| nested.options.as_ref().is_some_and(|options| options.map_entry());
    for nested in message.nested_type.iter().filter(|nested| !is_map(nested)) {
        json_attributes(&path, nested, into);
    }
}

/// The code for a file; `out` is a directory to work in.
fn generate(out: &Path, (file, package): (&str, &str)) -> String {
    let descriptors = protox::Compiler::new([env!("CARGO_MANIFEST_DIR")])
        .expect("the crate's directory")
        .include_source_info(true)
        .include_imports(true)
        .open_file(file)
        .expect("the file compiles")
        .file_descriptor_set();
    let mut builder = tonic_prost_build::configure()
        .out_dir(out)
        // The sockets are ours to open, so that the simulator can replace them.
        .build_transport(false)
        .emit_rerun_if_changed(false)
        // Iteration order shows in what is sent.
        .btree_map(".")
        // These contain credentials; src/lib.rs has their Debug.
        .skip_debug(["runtime.v1.AuthConfig"])
        .skip_debug(["Stage", "Publish", "Expand"].map(|call| format!("csi.v1.Node{call}VolumeRequest")))
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .type_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)]")
        .message_attribute(".", "#[serde(default)]");
    let mut attributes = Vec::new();
    for file in descriptors.file.iter().filter(|file| file.package() == package) {
        for message in &file.message_type {
            json_attributes(package, message, &mut attributes);
        }
    }
    for (path, attribute) in attributes {
        builder = builder.field_attribute(path, attribute);
    }
    builder.compile_fds(descriptors).expect("code for the file");
    fs::read_to_string(out.join(format!("{package}.rs"))).expect("generated code")
}

const FILES: [(&str, &str); 3] =
    [("cri.proto", "runtime.v1"), ("csi.proto", "csi.v1"), ("pluginregistration.proto", "pluginregistration")];

#[test]
fn generated_code_is_what_the_protos_say() {
    let mut stale = Vec::new();
    for (file, package) in FILES {
        let fresh = generate(Path::new(env!("CARGO_TARGET_TMPDIR")), (file, package));
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/gen/{package}.rs"));
        if std::env::var_os("KEELSON_REGENERATE").is_some_and(|value| value == "1") {
            fs::write(&committed, &fresh).expect("src/gen is writable");
        }
        if fs::read_to_string(&committed).unwrap_or_default() != fresh {
            stale.push(file);
        }
    }
    assert!(stale.is_empty(), "src/gen is not what these generate: {stale:?}; run `cargo proto`");
}
