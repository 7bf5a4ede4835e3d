//! Keeps src/gen what the .proto files say; `cargo proto` writes it anew.
//! Upstream: hack/update-codegen.sh and hack/verify-codegen.sh.
//! Differs: no protoc on the machine, and no build script: the generated code is read like any other.

use std::fs;
use std::path::Path;

use prost_types::FieldDescriptorProto;
use prost_types::field_descriptor_proto::Type;

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

/// The code for `cri.proto`; `out` is a directory to work in.
fn generate(out: &Path) -> String {
    let descriptors = protox::Compiler::new([env!("CARGO_MANIFEST_DIR")])
        .expect("the crate's directory")
        .include_source_info(true)
        .include_imports(true)
        .open_file("cri.proto")
        .expect("cri.proto compiles")
        .file_descriptor_set();
    let mut builder = tonic_prost_build::configure()
        .out_dir(out)
        // The sockets are ours to open, so that the simulator can replace them.
        .build_transport(false)
        .emit_rerun_if_changed(false)
        // Iteration order shows in what is sent.
        .btree_map(".")
        // Contains credentials; src/lib.rs has its Debug.
        .skip_debug(["runtime.v1.AuthConfig"])
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .type_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)]")
        .message_attribute(".", "#[serde(default)]");
    for file in &descriptors.file {
        for message in &file.message_type {
            for field in &message.field {
                let path = format!("{}.{}.{}", file.package(), message.name(), field.name());
                builder = builder.field_attribute(path, json_attribute(field));
            }
        }
    }
    builder.compile_fds(descriptors).expect("code for cri.proto");
    fs::read_to_string(out.join("runtime.v1.rs")).expect("generated code")
}

#[test]
fn generated_code_is_what_the_proto_says() {
    let fresh = generate(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen/runtime.v1.rs");
    if std::env::var_os("KEELSON_REGENERATE").is_some_and(|value| value == "1") {
        fs::write(&committed, &fresh).expect("src/gen is writable");
    }
    let stale = fs::read_to_string(&committed).unwrap_or_default() != fresh;
    assert!(!stale, "src/gen/runtime.v1.rs is not what cri.proto generates; run `cargo proto`");
}
