//! Which credential provider plugins the node has, as their configuration says.
//! Upstream: pkg/credentialprovider/plugin/{config,plugin}.go (readCredentialProviderConfig, validateCredentialProviderConfig).
//! Differs: all that is wrong is told at once; what asks for service account tokens is left out, with a warning.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kubelet::config::CredentialProvider;
use kubelet::sensitive::Sensitive;
use serde::Deserialize;

use super::duration::GoDuration;

const KIND: &str = "CredentialProviderConfig";
const CONFIG_VERSIONS: [&str; 3] = ["kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"];
const PLUGIN_VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
];
/// How much of a configuration file is read.
const MOST_READ: u64 = 10 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    kind: String,
    api_version: String,
    #[serde(default)]
    providers: Option<Vec<Provider>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
#[derive(Default)]
struct Provider {
    name: String,
    match_images: Option<Vec<String>>,
    default_cache_duration: Option<GoDuration>,
    api_version: String,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
    token_attributes: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    #[serde(default)]
    value: String,
}

/// The plugins that a configuration names, a file or a directory of them, and what users should be told.
///
/// # Errors
/// The directory of the executables is not there, or the configuration cannot be read, or something in it is wrong.
pub fn read_credential_providers(config: &Path, bin_dir: &Path) -> Result<(Vec<CredentialProvider>, Vec<String>), String> {
    if !bin_dir.exists() {
        return Err(format!("plugin binary directory {} did not exist", bin_dir.display()));
    }
    let mut providers: Vec<Provider> = Vec::new();
    for path in files(config)? {
        let file = decode(&path)?;
        for provider in file.providers.unwrap_or_default() {
            if providers.iter().any(|other| other.name == provider.name) {
                return Err(format!("duplicate provider name {:?} found in configuration file(s)", provider.name));
            }
            providers.push(provider);
        }
    }
    let wrong: BTreeSet<String> = if providers.is_empty() {
        ["providers: Required value: at least 1 item in plugins is required".to_owned()].into()
    } else {
        providers.iter().flat_map(wrong_with).collect()
    };
    if !wrong.is_empty() {
        let wrong: Vec<String> = wrong.into_iter().collect();
        let wrong = if wrong.len() == 1 { wrong.join("") } else { format!("[{}]", wrong.join(", ")) };
        return Err(format!("failed to validate credential provider config: {wrong}"));
    }
    let (mut plugins, mut warnings) = (Vec::new(), Vec::new());
    for provider in providers {
        let executable = bin_dir.join(&provider.name);
        is_executable(&executable)?;
        if provider.token_attributes.is_some() {
            warnings.push(format!(
                "credential provider {:?} is not used: its tokenAttributes ask for service account tokens, which are not sent to plugins yet",
                provider.name
            ));
            continue;
        }
        plugins.push(plugin(provider, &executable));
    }
    Ok((plugins, warnings))
}

fn plugin(provider: Provider, executable: &Path) -> CredentialProvider {
    let environment = provider.env.unwrap_or_default().into_iter().map(|variable| (variable.name, variable.value)).collect();
    CredentialProvider {
        name: provider.name,
        executable: executable.display().to_string(),
        api_version: provider.api_version,
        match_images: provider.match_images.unwrap_or_default(),
        default_cache_duration: provider.default_cache_duration.map_or(Duration::ZERO, |duration| duration.non_negative()),
        arguments: provider.args.unwrap_or_default(),
        environment: Sensitive::new(environment),
    }
}

fn files(config: &Path) -> Result<Vec<PathBuf>, String> {
    let found = fs::metadata(config).map_err(|error| format!("unable to access path {:?}: {error}", config.display()))?;
    if !found.is_dir() {
        return Ok(vec![config.to_owned()]);
    }
    let entries = fs::read_dir(config).map_err(|error| format!("unable to read directory {:?}: {error}", config.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let is_config = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("json" | "yaml" | "yml")) && !path.is_dir()
    };
    files.retain(is_config);
    files.sort();
    if files.is_empty() {
        return Err(format!("no configuration files found in directory {:?}", config.display()));
    }
    Ok(files)
}

fn decode(path: &Path) -> Result<Document, String> {
    let shown = path.display().to_string();
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(MOST_READ).read_to_string(&mut text));
    read.map_err(|error| format!("unable to read file {shown:?}: {error}"))?;
    let is_json = text.trim_start().starts_with('{');
    let document =
        if is_json { serde_json::from_str::<Document>(&text).ok() } else { serde_saphyr::from_str::<Document>(&text).ok() };
    // What the parser says may quote a variable of the environment.
    let document = document.ok_or_else(|| {
        format!("error decoding config {shown:?}: it is no {KIND}: the syntax, an unknown field, or a value of the wrong type")
    })?;
    if document.kind != KIND || !CONFIG_VERSIONS.contains(&document.api_version.as_str()) {
        let (kind, version) = (&document.kind, &document.api_version);
        return Err(format!("error decoding config {shown:?}: no kind {kind:?} is registered for version {version:?}"));
    }
    Ok(document)
}

/// validateCredentialProviderConfig
fn wrong_with(provider: &Provider) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut name_is = |is_wrong: bool, why: &str| {
        if is_wrong {
            wrong.push(format!("providers.name: Invalid value: {:?}: provider name cannot {why}", provider.name));
        }
    };
    name_is(provider.name.contains('/'), "contain '/'");
    name_is(provider.name.contains(' '), "contain spaces");
    name_is(provider.name == ".", "be '.'");
    name_is(provider.name == "..", "be '..'");
    if provider.api_version.is_empty() {
        wrong.push("providers.apiVersion: Required value".to_owned());
    } else if !PLUGIN_VERSIONS.contains(&provider.api_version.as_str()) {
        let versions = PLUGIN_VERSIONS.map(|version| format!("{version:?}")).join(", ");
        wrong.push(format!("providers.apiVersion: Unsupported value: {:?}: supported values: {versions}", provider.api_version));
    }
    if provider.match_images.as_ref().is_none_or(Vec::is_empty) {
        wrong.push("providers.matchImages: Required value: at least 1 item in matchImages is required".to_owned());
    }
    match &provider.default_cache_duration {
        None => wrong.push("providers.defaultCacheDuration: Required value".to_owned()),
        Some(duration) if duration.as_nanos() < 0 => {
            wrong.push("providers.defaultCacheDuration: Invalid value: must be greater than or equal to 0".to_owned());
        }
        Some(_) => {}
    }
    wrong
}

fn is_executable(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let Ok(found) = fs::metadata(path) else { return Err(format!("plugin binary executable {shown} did not exist")) };
    if !found.is_file() || found.permissions().mode() & 0o111 == 0 {
        return Err(format!("error inspecting binary executable {shown}: permission denied"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, plugins: &[&str]) -> Self {
            let directory = std::env::temp_dir().join(format!("keelson-providers-{name}-{}", std::process::id()));
            fs::create_dir_all(directory.join("bin")).unwrap();
            fs::create_dir_all(directory.join("conf")).unwrap();
            for plugin in plugins {
                let path = directory.join("bin").join(plugin);
                fs::write(&path, "#!/bin/sh\n").unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
            Self(directory)
        }

        fn read(&self, files: &[(&str, &str)]) -> Result<(Vec<CredentialProvider>, Vec<String>), String> {
            for (name, text) in files {
                let head = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n";
                fs::write(self.0.join("conf").join(name), format!("{head}{text}")).unwrap();
            }
            read_credential_providers(&self.0.join("conf"), &self.0.join("bin"))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const ECR: &str = "providers: [{name: ecr, matchImages: ['*.dkr.ecr.*.amazonaws.com'], defaultCacheDuration: 12h, \
        apiVersion: credentialprovider.kubelet.k8s.io/v1, args: [get], env: [{name: AWS_PROFILE, value: x}]}]\n";

    // POD-206: Test_readCredentialProviderConfig (config_test.go): a directory's files by name, each provider once.
    #[test]
    fn files_of_a_directory_are_merged() {
        let scratch = Scratch::new("merge", &["ecr", "gcr"]);
        let gcr = ECR.replace("ecr, match", "gcr, match");
        let (found, warnings) = scratch.read(&[("b.yaml", ECR), ("a.yml", &gcr), ("c.txt", "nonsense")]).unwrap();
        assert_eq!(found.iter().map(|plugin| plugin.name.as_str()).collect::<Vec<_>>(), ["gcr", "ecr"]);
        assert!(warnings.is_empty());
        let ecr = &found[1];
        assert!(ecr.executable.ends_with("/bin/ecr"));
        assert_eq!(ecr.default_cache_duration, Duration::from_secs(12 * 3600));
        assert_eq!(ecr.environment.reveal(), &[("AWS_PROFILE".to_owned(), "x".to_owned())]);
        let twice = scratch.read(&[("d.yaml", ECR)]).unwrap_err();
        assert_eq!(twice, "duplicate provider name \"ecr\" found in configuration file(s)");
    }

    // POD-206: Test_validateCredentialProviderConfig (config_test.go), and what RegisterCredentialProviderPlugins asks of the executables.
    #[test]
    fn what_is_wrong_is_told() {
        let scratch = Scratch::new("wrong", &["ecr"]);
        let why = |text: &str| scratch.read(&[("a.yaml", text)]).unwrap_err();
        assert!(why("providers: []\n").ends_with("at least 1 item in plugins is required"));
        assert!(why(&ECR.replace("name: ecr", "name: foo/../bar")).contains("provider name cannot contain '/'"));
        assert!(why(&ECR.replace("12h", "-1m")).ends_with("must be greater than or equal to 0"));
        assert!(why(&ECR.replace("credentialprovider.kubelet.k8s.io/v1", "foo/v1")).contains("Unsupported value: \"foo/v1\""));
        assert!(why(&ECR.replace("matchImages: ['*.dkr.ecr.*.amazonaws.com']", "matchImages: []")).contains("matchImages"));
        assert!(why(&ECR.replace("matchImages", "matchImage")).contains("an unknown field"));
        assert!(why(&ECR.replace("name: ecr", "name: other")).ends_with("/bin/other did not exist"));
    }

    #[test]
    fn plugin_that_wants_tokens_is_warned_of_by_name() {
        let scratch = Scratch::new("tokens", &["ecr"]);
        let text = ECR.replace(
            "args: [get]",
            "tokenAttributes: {serviceAccountTokenAudience: x, cacheType: Token, requireServiceAccount: true}",
        );
        let (found, warnings) = scratch.read(&[("a.yaml", &text)]).unwrap();
        assert!(found.is_empty());
        assert!(warnings[0].contains("\"ecr\""), "{warnings:?}");
    }
}
