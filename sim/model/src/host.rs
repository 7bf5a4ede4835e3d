//! A pretend machine: directories, volumes, cgroups and files; what is not yet synced is lost in a crash of the machine.
//! Upstream: none.
//! Differs: intents, not system calls, as the `Host` seam has them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use kubelet::action::{HostCall, VolumeSetup};
use kubelet::event::{FileRead, HostReply, Manifest, VolumeDirectory};
use kubelet::failure::{Failure, FailureKind};
use kubelet::ids::PodUid;
use kubelet::observation::{FsUsage, MachineInfo, NodeAddresses};
use kubelet::sensitive::Sensitive;

use crate::csi::CsiModel;

/// The pretend machine.
#[derive(Clone, Debug)]
pub struct HostModel {
    /// What the machine is.
    pub machine: MachineInfo,
    /// Its addresses; whatever is asked about is one of them.
    pub addresses: NodeAddresses,
    /// Pod directories.
    pub pod_dirs: BTreeSet<PodUid>,
    /// Volumes that are in place, by pod and volume name; host paths are not among them, they own no directory (VOL-030).
    pub volumes: BTreeMap<(PodUid, String), PlacedVolume>,
    /// Cgroups.
    pub cgroups: BTreeSet<String>,
    /// Files that are durable.
    pub files: BTreeMap<String, Vec<u8>>,
    /// What credential provider plugins answer, by their paths.
    pub credential_plugins: BTreeMap<String, Vec<u8>>,
    /// The files at the static pod path, by name.
    pub manifests: BTreeMap<String, Vec<u8>>,
    /// Counts what was done to them.
    pub manifest_changes: u64,
    /// What the static pod URL answers, with status and body; nobody listens there if `None`.
    pub pod_url: Option<(u16, Vec<u8>)>,
    /// Whether it ever did.
    pub url_has_answered: bool,
    /// The CSI drivers.
    pub csi: CsiModel,
    /// Whether the disk is full: what needs space fails.
    pub disk_full: bool,
}

/// A volume that is in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedVolume {
    /// The plugin's escaped name.
    pub plugin: String,
    /// What its files say, by path.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl HostModel {
    /// A machine with two cores and 4 GiB.
    #[must_use]
    pub fn new() -> Self {
        let machine = MachineInfo {
            cpus: 2,
            memory: 4 << 30,
            root_fs_capacity: 64 << 30,
            hugepages: [(2 << 20, 0)].into(),
            machine_id: "00000000000000000000000000000001".to_owned(),
            system_uuid: "00000000-0000-0000-0000-000000000001".to_owned(),
            boot_id: "11111111-1111-1111-1111-111111111111".to_owned(),
            kernel_version: "6.12.0".to_owned(),
            os_image: "Keelson Simulated Linux".to_owned(),
            architecture: "amd64".to_owned(),
            cgroup_v2: true,
            max_pids: 32768,
            tmpfs_no_swap: true,
            cpu_cfs_quota: true,
            device_resources: Some(Vec::new()),
            ..MachineInfo::default()
        };
        Self {
            machine,
            addresses: NodeAddresses { routed: vec![[10, 77, 0, 1].into()], ..NodeAddresses::default() },
            pod_dirs: BTreeSet::new(),
            volumes: BTreeMap::new(),
            cgroups: BTreeSet::new(),
            files: [
                ("/etc/resolv.conf".to_owned(), b"nameserver 10.0.0.2\nsearch example.com\n".to_vec()),
                ("/etc/hosts".to_owned(), b"127.0.0.1 localhost\n".to_vec()),
            ]
            .into(),
            credential_plugins: BTreeMap::new(),
            manifests: BTreeMap::new(),
            manifest_changes: 0,
            pod_url: None,
            url_has_answered: false,
            csi: CsiModel::default(),
            disk_full: false,
        }
    }

    /// Does one operation.
    ///
    /// # Errors
    /// As a machine fails: no such file, a full disk.
    pub fn call(&mut self, call: &HostCall) -> Result<HostReply, Failure> {
        match call {
            HostCall::PrepareNode
            | HostCall::LinkContainerLog { .. }
            | HostCall::RemoveContainerLogs { .. }
            | HostCall::UndoLogRotation { .. }
            | HostCall::RemovePodLogs { .. }
            | HostCall::SweepLogLinks
            | HostCall::BindSubPath { .. }
            | HostCall::CleanSubPaths { .. }
            | HostCall::GiveToGroup { .. } => Ok(HostReply::Done),
            HostCall::MachineInfo => Ok(HostReply::Machine(Box::new(self.machine.clone()))),
            HostCall::NodeAddresses { given, .. } => Ok(self.addresses(given)),
            HostCall::ApplyCgroup { name, .. } | HostCall::EnsureCgroup { name, .. } => {
                self.cgroups.insert(name.clone());
                Ok(HostReply::Done)
            }
            HostCall::RemoveCgroup { name } => {
                self.cgroups.remove(name);
                Ok(HostReply::Done)
            }
            HostCall::CgroupExists { name } => Ok(HostReply::Exists(self.cgroups.contains(name))),
            HostCall::ListPluginSockets { registry } => Ok(HostReply::PluginSockets(self.csi.sockets(registry))),
            HostCall::ReadManifests { path } => Ok(HostReply::Manifests(self.manifests(path))),
            HostCall::ListPodCgroups => Ok(HostReply::PodCgroups(self.pod_cgroups())),
            HostCall::MakePodDirs { pod, .. } => self.space().map(|()| {
                self.pod_dirs.insert(pod.clone());
                HostReply::Done
            }),
            HostCall::RemovePodDir { pod } => self.remove_pod_dir(pod),
            HostCall::ListPodDirs => Ok(HostReply::PodDirs(self.pod_dirs.iter().cloned().collect())),
            HostCall::ListPodLogs => Ok(HostReply::PodLogs(Vec::new())),
            HostCall::WriteFile { .. }
            | HostCall::CreateFile { .. }
            | HostCall::ReadFile { .. }
            | HostCall::WriteRecord { .. }
            | HostCall::RemoveFile { .. }
            | HostCall::ReadDirectory { .. }
            | HostCall::ReadFiles { .. }
            | HostCall::AskCredentialPlugin { .. } => self.on_files(call),
            // Pretend containers write nothing.
            HostCall::LargeLogs { .. } => Ok(HostReply::LargeLogs { large: Vec::new(), missing: Vec::new() }),
            HostCall::RotateLog { path, suffix, .. } => Ok(HostReply::Rotated(format!("{path}.{suffix}"))),
            HostCall::HighestLog { .. } => Ok(HostReply::HighestLog(None)),
            HostCall::SetUpVolume { pod, volume, setup } => self.space().map(|()| {
                if let Some(plugin) = plugin(setup) {
                    self.pod_dirs.insert(pod.clone());
                    let placed = PlacedVolume { plugin: plugin.to_owned(), files: files(setup) };
                    self.volumes.insert((pod.clone(), volume.clone()), placed);
                }
                HostReply::Done
            }),
            HostCall::ListCsiVolumes => Ok(self.csi_volumes()),
            HostCall::PrepareCsiVolume { data_path, data, .. } => self.prepare_csi_volume(data_path, data),
            HostCall::RemoveCsiVolume { mount } => self.remove_csi_volume(mount),
            HostCall::TearDownVolume { pod, volume, plugin } => {
                if plugin == CSI {
                    self.unmount_by_force(pod, volume);
                }
                self.volumes.remove(&(pod.clone(), volume.clone()));
                Ok(HostReply::Done)
            }
            HostCall::ListVolumes { pod } => Ok(HostReply::Volumes(self.volumes_of(pod))),
            HostCall::FsUsage { .. } => Ok(HostReply::Fs(FsUsage {
                capacity: self.machine.root_fs_capacity,
                available: if self.disk_full { 0 } else { self.machine.root_fs_capacity / 2 },
                ..FsUsage::default()
            })),
        }
    }

    fn on_files(&mut self, call: &HostCall) -> Result<HostReply, Failure> {
        match call {
            HostCall::WriteFile { path, contents, .. } => self.space().map(|()| {
                self.files.insert(path.clone(), contents.clone());
                HostReply::Done
            }),
            HostCall::CreateFile { path, .. } => self.space().map(|()| {
                self.files.insert(path.clone(), Vec::new());
                HostReply::Done
            }),
            HostCall::ReadFile { path } => match self.files.get(path) {
                Some(contents) => Ok(HostReply::Contents(contents.clone())),
                None => Err(Failure::new(FailureKind::NotFound, format!("open {path}: no such file or directory"))),
            },
            HostCall::WriteRecord { path, contents } => self.space().map(|()| {
                self.files.insert(path.clone(), contents.reveal().clone());
                HostReply::Done
            }),
            HostCall::RemoveFile { path } => {
                self.files.remove(path);
                Ok(HostReply::Done)
            }
            HostCall::ReadFiles { paths } => {
                let read = |path: &String| {
                    let contents = Ok(Sensitive::new(self.files.get(path)?.clone()));
                    Some(FileRead { name: path.clone(), contents })
                };
                Ok(HostReply::Files(paths.iter().filter_map(read).collect()))
            }
            HostCall::AskCredentialPlugin { executable, .. } => match self.credential_plugins.get(executable) {
                Some(answer) => Ok(HostReply::Output(Sensitive::new(answer.clone()))),
                None => Err(Failure::new(FailureKind::Other, "exit status 1")),
            },
            HostCall::ReadDirectory { path, prefix } => Ok(HostReply::Files(self.read_directory(path, prefix))),
            _ => Ok(HostReply::Done),
        }
    }

    fn read_directory(&self, directory: &str, prefix: &str) -> Vec<FileRead> {
        let inside = |(path, contents): (&String, &Vec<u8>)| {
            let name = path.strip_prefix(directory)?.strip_prefix('/')?.to_owned();
            name.starts_with(prefix).then(|| FileRead { name, contents: Ok(Sensitive::new(contents.clone())) })
        };
        self.files.iter().filter_map(inside).collect()
    }

    fn addresses(&self, given: &[IpAddr]) -> HostReply {
        HostReply::NodeAddresses(NodeAddresses { local: given.to_vec(), ..self.addresses.clone() })
    }

    /// Nothing is known of it.
    fn unmount_by_force(&mut self, pod: &PodUid, volume: &str) {
        let target = format!("/pods/{pod}/volumes/{CSI}/{volume}/mount");
        let there: Vec<String> = self.csi.published.keys().filter(|path| path.ends_with(&target)).cloned().collect();
        there.iter().for_each(|path| self.csi.unmount_by_force(path));
    }

    /// Writes a file at the static pod path, or removes it.
    pub fn put_manifest(&mut self, name: &str, contents: Option<Vec<u8>>) {
        self.manifest_changes += 1;
        match contents {
            Some(contents) => self.manifests.insert(name.to_owned(), contents),
            None => self.manifests.remove(name),
        };
    }

    /// The static pod URL answers so from here on, or nobody does.
    pub fn answer_url(&mut self, answer: Option<(u16, Vec<u8>)>) {
        self.url_has_answered |= answer.is_some();
        self.pod_url = answer;
    }

    /// Asks the static pod URL.
    ///
    /// # Errors
    /// If nobody answers, or not with 200.
    pub fn fetch(&self) -> Result<Vec<u8>, Failure> {
        match &self.pod_url {
            Some((200, body)) => Ok(body.clone()),
            Some((status, _)) => Err(Failure::new(FailureKind::Other, format!("http://manifests/pods: {status}"))),
            None => Err(Failure::new(FailureKind::Other, "connection refused")),
        }
    }

    fn manifests(&self, directory: &str) -> Vec<Manifest> {
        let manifest = |(name, contents): (&String, &Vec<u8>)| Manifest {
            path: format!("{directory}/{name}"),
            contents: Ok(contents.clone()),
        };
        self.manifests.iter().map(manifest).collect()
    }

    /// How long an operation takes.
    #[must_use]
    pub fn latency(&self, call: &HostCall) -> Duration {
        match call {
            HostCall::SetUpVolume { .. } | HostCall::WriteFile { .. } => Duration::from_millis(3),
            _ => Duration::from_millis(1),
        }
    }

    fn space(&self) -> Result<(), Failure> {
        if self.disk_full { Err(Failure::new(FailureKind::Other, "no space left on device")) } else { Ok(()) }
    }

    fn remove_pod_dir(&mut self, pod: &PodUid) -> Result<HostReply, Failure> {
        let mounted = self.volumes.keys().any(|(owner, _)| owner == pod);
        if mounted {
            return Err(Failure::new(
                FailureKind::Other,
                format!("orphaned pod \"{pod}\" found, but volume paths are still present on disk"),
            ));
        }
        self.pod_dirs.remove(pod);
        let home = format!("/pods/{pod}/");
        self.files.retain(|path, _| !path.contains(&home));
        Ok(HostReply::Done)
    }

    fn volumes_of(&self, pod: &PodUid) -> Vec<VolumeDirectory> {
        let directory = |((pod, volume), placed): (&(PodUid, String), &PlacedVolume)| VolumeDirectory {
            plugin: placed.plugin.clone(),
            volume: volume.clone(),
            data: self.data_of(pod, volume).filter(|_| placed.plugin == CSI),
        };
        self.volumes.iter().filter(|((owner, _), _)| owner == pod).map(directory).collect()
    }

    fn data_of(&self, pod: &PodUid, volume: &str) -> Option<String> {
        let end = format!("/pods/{pod}/volumes/{CSI}/{volume}{DATA}");
        let (_, contents) = self.files.iter().find(|(path, _)| path.ends_with(&end))?;
        Some(String::from_utf8_lossy(contents).into_owned())
    }

    fn csi_volumes(&self) -> HostReply {
        let (mut staged, mut published) = (Vec::new(), Vec::new());
        for (path, contents) in self.files.iter().filter(|(path, _)| path.ends_with(DATA)) {
            let text = String::from_utf8_lossy(contents).into_owned();
            match pod_volume(path) {
                Some((pod, volume)) => published.push((pod, volume, text)),
                None => staged.push(text),
            }
        }
        HostReply::CsiVolumes { staged, published }
    }

    fn prepare_csi_volume(&mut self, data_path: &str, data: &str) -> Result<HostReply, Failure> {
        self.space()?;
        self.files.insert(data_path.to_owned(), data.as_bytes().to_vec());
        if let Some((pod, volume)) = pod_volume(data_path) {
            self.pod_dirs.insert(pod.clone());
            self.volumes.insert((pod, volume), PlacedVolume { plugin: CSI.to_owned(), files: BTreeMap::new() });
        }
        Ok(HostReply::Done)
    }

    fn remove_csi_volume(&mut self, mount: &str) -> Result<HostReply, Failure> {
        if self.csi.is_mounted(mount) {
            return Err(Failure::new(FailureKind::Other, format!("{mount} is still mounted")));
        }
        let data = format!("{}{DATA}", mount.rsplit_once('/').unwrap_or_default().0);
        self.files.remove(&data);
        if let Some(volume) = pod_volume(&data) {
            self.volumes.remove(&volume);
        }
        Ok(HostReply::Done)
    }

    fn pod_cgroups(&self) -> BTreeMap<PodUid, String> {
        let pod_of = |name: &String| Some((PodUid::new(name.rsplit('/').next()?.strip_prefix("pod")?), name.clone()));
        self.cgroups.iter().filter_map(pod_of).collect()
    }
}

impl Default for HostModel {
    fn default() -> Self {
        Self::new()
    }
}

const CSI: &str = "kubernetes.io~csi";
const DATA: &str = "/vol_data.json";

/// The pod and the volume whose data lies at that path, if it is a pod's.
fn pod_volume(data_path: &str) -> Option<(PodUid, String)> {
    let (_, rest) = data_path.strip_suffix(DATA)?.split_once("/pods/")?;
    let (pod, volume) = rest.split_once(&format!("/volumes/{CSI}/"))?;
    Some((PodUid::new(pod), volume.to_owned()))
}

fn plugin(setup: &VolumeSetup) -> Option<&str> {
    match setup {
        VolumeSetup::EmptyDir { .. } => Some("kubernetes.io~empty-dir"),
        VolumeSetup::HostPath { .. } => None,
        VolumeSetup::Files { plugin, .. } => Some(plugin),
    }
}

fn files(setup: &VolumeSetup) -> BTreeMap<String, Vec<u8>> {
    match setup {
        VolumeSetup::Files { files, .. } => files.iter().map(|(path, file)| (path.clone(), file.data.reveal().clone())).collect(),
        _ => BTreeMap::new(),
    }
}
