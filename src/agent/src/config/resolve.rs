//! What flags and files amount to: settings without a question left open.
//! Upstream: cmd/kubelet/app/server.go (run, InitializeTLS, buildKubeletClientConfig), pkg/kubelet/kubelet.go (NewMainKubelet).
//! Differs: addresses, enums, thresholds and reservations are checked here, before anything is opened.

mod core;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use kubelet::config::Config;
use kubelet::feature_gates::FeatureGates;

pub use self::tls::{CertificateSource, Terms, Tls};
use super::flags::{Flags, Settings, sloppy_ip};
use super::problem::Problem;
use super::schema::KubeletConfiguration;
use super::{Machine, effects};

/// Everything that a running agent is set to.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// What decisions are made by.
    pub kubelet: Config,
    /// The listeners.
    pub server: Server,
    /// The certificate that they show.
    pub tls: Tls,
    /// Whom they let in.
    pub auth: Auth,
    /// The way to the API server.
    pub api: Api,
    /// The way to the container runtime.
    pub runtime: Runtime,
    /// Plugins that give credentials for images; `None` if there are none.
    pub credential_provider: Option<CredentialProvider>,
    /// The process itself.
    pub process: Process,
    /// Logs.
    pub logging: LogSettings,
    /// Where spans go; `None` is nowhere.
    pub tracing: Option<TracingSettings>,
    /// What users should be told: deprecated flags, values that were dropped.
    pub warnings: Vec<String>,
    pub(super) configuration: KubeletConfiguration,
}

/// The listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where HTTPS is served; `None` is not at all.
    pub https: Option<SocketAddr>,
    /// Where it is served without authentication; `None` is not at all.
    pub read_only: Option<SocketAddr>,
    /// Where healthz is served; `None` is not at all.
    pub healthz: Option<SocketAddr>,
    /// Whether logs, exec and the like are served.
    pub debugging_handlers: bool,
    /// Whether the node's logs are served.
    pub system_log_handler: bool,
    /// Whether they may be queried.
    pub system_log_query: bool,
    /// Whether profiles are served.
    pub profiling_handler: bool,
    /// Whether a request may change the verbosity.
    pub debug_flags_handler: bool,
    /// How long a stream may be idle.
    pub streaming_idle_timeout: Duration,
    /// Whether metrics are shown that a minor version hid.
    pub show_hidden_metrics: bool,
}

/// Whom the listeners let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Whether requests without credentials come in as system:anonymous.
    pub anonymous: bool,
    /// The authorities of client certificates; `None` is none.
    pub client_ca_file: Option<PathBuf>,
    /// How long an answer about a token is kept; `None` if tokens are not looked at.
    pub token_webhook: Option<Duration>,
    /// Who may do what.
    pub authorization: Authorization,
}

/// Who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// Everybody everything.
    AlwaysAllow,
    /// Who the API server says.
    Webhook {
        /// How long a yes is kept.
        authorized_ttl: Duration,
        /// How long a no is kept.
        unauthorized_ttl: Duration,
    },
}

/// The way to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// `--kubeconfig`; `None` is standalone.
    pub kubeconfig: Option<PathBuf>,
    /// `--bootstrap-kubeconfig`.
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Where client certificates are kept.
    pub cert_dir: PathBuf,
    /// Whether the client certificate is renewed.
    pub rotate_certificates: bool,
    /// Whether requests carry protobuf.
    pub content_type: String,
    /// Requests each second; 0 is the client's default.
    pub qps: u32,
    /// Requests at once.
    pub burst: u32,
    /// How long a request of the node's heartbeat may take (NODE-010).
    pub heartbeat_timeout: Duration,
}

/// The way to the container runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Its endpoint, such as `unix:///run/containerd/containerd.sock`.
    pub endpoint: String,
    /// The image service's; the same unless set.
    pub image_endpoint: String,
}

/// Plugins that give credentials for images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialProvider {
    /// Their configuration: a file, or a directory of files.
    pub config: PathBuf,
    /// Where they are.
    pub bin_dir: PathBuf,
}

/// The process itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// A file to hold while running.
    pub lock_file: Option<PathBuf>,
    /// Whether to exit when another process opens it.
    pub exit_on_lock_contention: bool,
    /// The limit of open files.
    pub max_open_files: u64,
}

/// Logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Whether lines are JSON objects.
    pub json: bool,
    /// How much is logged.
    pub verbosity: u32,
}

/// Where spans go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracingSettings {
    /// An OTLP gRPC endpoint.
    pub endpoint: String,
    /// How many of a million spans are sampled that have no parent.
    pub sampling_rate_per_million: u32,
}

impl Resolved {
    /// The configuration that is in force, for /configz: defaults filled in, flags applied, the serving certificate named.
    #[must_use]
    pub fn effective(&self) -> KubeletConfiguration {
        let mut configuration = self.configuration.clone();
        // A field that has no default of its own, but is a plain bool inside.
        configuration.enable_system_log_query.get_or_insert(false);
        if let CertificateSource::SelfSigned { certificate, key } = &self.tls.source {
            configuration.tls_cert_file = certificate.display().to_string();
            configuration.tls_private_key_file = key.display().to_string();
        }
        configuration
    }
}

/// What resolving reads, and where it says what is wrong.
struct Resolver<'a> {
    flags: &'a Flags,
    config: &'a KubeletConfiguration,
    machine: &'a Machine,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

/// Resolves settings that are valid by themselves.
pub(super) fn resolve(
    settings: &Settings,
    gates: FeatureGates,
    machine: &Machine,
    warnings: Vec<String>,
) -> Result<Resolved, Vec<Problem>> {
    let Settings { flags, config } = settings;
    let mut resolver = Resolver { flags, config, machine, problems: Vec::new(), warnings };
    let resolved = Resolved {
        kubelet: resolver.kubelet(gates),
        server: resolver.server(),
        tls: resolver.tls(),
        auth: resolver.auth(),
        api: resolver.api(),
        runtime: resolver.runtime(),
        credential_provider: resolver.credential_provider(),
        process: resolver.process(),
        logging: LogSettings { json: config.logging.format == "json", verbosity: config.logging.verbosity.0 },
        tracing: config.tracing.as_ref().map(|tracing| TracingSettings {
            endpoint: tracing.endpoint.clone().unwrap_or_else(|| "localhost:4317".to_owned()),
            sampling_rate_per_million: tracing.sampling_rate_per_million.and_then(|rate| u32::try_from(rate).ok()).unwrap_or(0),
        }),
        warnings: Vec::new(),
        configuration: config.clone(),
    };
    resolver.warnings.extend(effects::warnings(config));
    let warnings = resolver.warnings;
    if resolver.problems.is_empty() { Ok(Resolved { warnings, ..resolved }) } else { Err(resolver.problems) }
}

/// A number that validation has found to be in range; the bound if a later change of validation lets more through.
fn in_range<T: Default, N: TryInto<T>>(number: N) -> T {
    number.try_into().unwrap_or_default()
}

impl Resolver<'_> {
    fn problem(&mut self, field: &str, value: &str, message: impl Into<String>, remedy: &str) {
        self.problems.push(Problem::new(field, value, message, remedy));
    }

    /// A path below the working directory, as the process would open it.
    fn path(&self, path: &str) -> PathBuf {
        self.machine.working_dir.join(path)
    }

    fn optional_path(&self, path: &str) -> Option<PathBuf> {
        (!path.is_empty()).then(|| self.path(path))
    }

    fn listener(&mut self, field: &str, address: &str, port: i32) -> Option<SocketAddr> {
        let ip = sloppy_ip(address);
        if ip.is_none() {
            self.problem(
                field,
                address,
                format!("{field}: {address:?} is not a valid IP address"),
                "give an IP address such as 0.0.0.0",
            );
        }
        let port: u16 = in_range(port);
        ip.filter(|_| port != 0).map(|ip: IpAddr| SocketAddr::new(ip, port))
    }

    fn server(&mut self) -> Server {
        let config = self.config;
        let on = |switch: Option<bool>| switch.unwrap_or(true);
        let https = self.listener("address", &config.address, config.port);
        let read_only = https.and(sloppy_ip(&config.address)).filter(|_| config.read_only_port > 0);
        Server {
            https: https.filter(|_| on(config.enable_server)),
            read_only: read_only.map(|ip| SocketAddr::new(ip, in_range(config.read_only_port))),
            healthz: self.listener("healthzBindAddress", &config.healthz_bind_address, config.healthz_port.unwrap_or_default()),
            debugging_handlers: on(config.enable_debugging_handlers),
            system_log_handler: on(config.enable_system_log_handler),
            system_log_query: config.enable_system_log_query == Some(true),
            profiling_handler: on(config.enable_profiling_handler),
            debug_flags_handler: on(config.enable_debug_flags_handler),
            streaming_idle_timeout: config.streaming_connection_idle_timeout.non_negative(),
            show_hidden_metrics: !config.show_hidden_metrics_for_version.is_empty(),
        }
    }

    fn auth(&mut self) -> Auth {
        let config = self.config;
        let (authentication, webhook) = (&config.authentication, &config.authorization.webhook);
        let mode = config.authorization.mode.as_str();
        let authorization = match mode {
            "AlwaysAllow" => Authorization::AlwaysAllow,
            "Webhook" => Authorization::Webhook {
                authorized_ttl: webhook.cache_authorized_ttl.non_negative(),
                unauthorized_ttl: webhook.cache_unauthorized_ttl.non_negative(),
            },
            _ => {
                self.problem(
                    "authorization.mode",
                    mode,
                    format!("unknown authorization mode {mode}"),
                    "give Webhook or AlwaysAllow",
                );
                Authorization::AlwaysAllow
            }
        };
        let standalone = self.flags.kubeconfig.is_empty();
        let token_webhook = authentication.webhook.enabled.unwrap_or(true);
        if standalone {
            for (field, asks, message) in [
                ("authentication.webhook.enabled", token_webhook, "no client provided, cannot use webhook authentication"),
                ("authorization.mode", mode == "Webhook", "no client provided, cannot use webhook authorization"),
            ] {
                if asks {
                    self.problem(field, "", message, "give --kubeconfig, or turn it off");
                }
            }
        }
        Auth {
            anonymous: authentication.anonymous.enabled.unwrap_or(false),
            client_ca_file: self.optional_path(&authentication.x509.client_ca_file),
            token_webhook: token_webhook.then(|| authentication.webhook.cache_ttl.non_negative()),
            authorization,
        }
    }

    fn api(&mut self) -> Api {
        let (config, flags) = (self.config, self.flags);
        if flags.kubeconfig.is_empty() && !flags.bootstrap_kubeconfig.is_empty() {
            let message = "--bootstrap-kubeconfig needs --kubeconfig to write to";
            self.problem("--bootstrap-kubeconfig", &flags.bootstrap_kubeconfig, message, "give --kubeconfig");
        }
        let lease = Duration::from_secs(in_range(config.node_lease_duration_seconds));
        Api {
            kubeconfig: self.optional_path(&flags.kubeconfig),
            bootstrap_kubeconfig: self.optional_path(&flags.bootstrap_kubeconfig),
            cert_dir: self.path(&flags.cert_dir),
            rotate_certificates: config.rotate_certificates,
            content_type: config.content_type.clone(),
            qps: in_range(config.kube_api_qps.unwrap_or_default()),
            burst: in_range(config.kube_api_burst),
            heartbeat_timeout: config.node_status_update_frequency.non_negative().min(lease),
        }
    }

    fn runtime(&mut self) -> Runtime {
        let config = self.config;
        let endpoint = config.container_runtime_endpoint.clone();
        let image_endpoint =
            if config.image_service_endpoint.is_empty() { endpoint.clone() } else { config.image_service_endpoint.clone() };
        for (field, endpoint) in [("containerRuntimeEndpoint", &endpoint), ("imageServiceEndpoint", &image_endpoint)] {
            let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
            if !path.starts_with('/') && !endpoint.starts_with("tcp://") {
                self.problem(
                    field,
                    endpoint,
                    format!("{field} {endpoint:?} is no socket's address"),
                    "give unix:///path/of/the.sock",
                );
            }
        }
        Runtime { endpoint, image_endpoint }
    }

    fn credential_provider(&mut self) -> Option<CredentialProvider> {
        let (config, bin_dir) = (&self.flags.image_credential_provider_config, &self.flags.image_credential_provider_bin_dir);
        // As upstream, one without the other is no provider; it is too easy to miss, so it is said.
        if config.is_empty() != bin_dir.is_empty() {
            self.warnings.push(
                "--image-credential-provider-config and --image-credential-provider-bin-dir do nothing without each other"
                    .to_owned(),
            );
        }
        (!config.is_empty() && !bin_dir.is_empty())
            .then(|| CredentialProvider { config: self.path(config), bin_dir: self.path(bin_dir) })
    }

    fn process(&mut self) -> Process {
        let flags = self.flags;
        if flags.exit_on_lock_contention && flags.lock_file.is_empty() {
            let message = "cannot exit on lock file contention: no lock file specified";
            self.problem("--exit-on-lock-contention", "true", message, "give --lock-file");
        }
        Process {
            lock_file: self.optional_path(&flags.lock_file),
            exit_on_lock_contention: flags.exit_on_lock_contention,
            max_open_files: in_range(self.config.max_open_files),
        }
    }
}
