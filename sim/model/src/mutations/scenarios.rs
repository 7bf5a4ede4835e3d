//! The scenarios in which faults are planted: each holds without one.
//! Upstream: none.
//! Differs: nothing on purpose.

/// The one file that shows all that becomes of a claimed volume.
pub(super) const CLAIMED: &str =
    include_str!("../../../../scenarios/volumes/claimed_volume_is_attached_staged_published_and_given_back.yaml");

/// What another pod pulled is not for everybody.
pub(super) const PRIVATE: &str = include_str!("../../../../scenarios/images/private_image_needs_own_credentials.yaml");

pub(super) const PLAIN: &str = r#"
about: A pod runs.
stages: [model]
steps:
  - wait: 5s
    apply:
      - kind: Pod
        metadata: {name: web}
        spec:
          containers: [{name: main, image: "busybox:1.36"}]
    expect: {within: 10s, pods: [{name: web, ready: true}]}
  - wait: 30s
"#;

pub(super) const PROBED: &str = r#"
about: A probed pod runs.
stages: [model]
steps:
  - apply:
      - kind: Pod
        metadata: {name: web}
        spec:
          containers: [{name: main, image: "busybox:1.36", readinessProbe: {exec: {command: ["true"]}, periodSeconds: 2}}]
    expect: {within: 10s, pods: [{name: web, ready: true}]}
  - wait: 30s
"#;

pub(super) const NEVER_READY: &str = r#"
about: A pod whose probe never passes is not ready.
stages: [model]
steps:
  - apply:
      - kind: Pod
        metadata: {name: web, annotations: {sim.keelson.dev/main: "exec-fails=0s.."}}
        spec:
          containers: [{name: main, image: "busybox:1.36", readinessProbe: {exec: {command: ["true"]}, periodSeconds: 2}}]
    expect: {within: 10s, pods: [{name: web, running: 1}]}
  - holds: {within: 30s, pods: [{name: web, ready: false}]}
"#;

pub(super) const INIT: &str = r#"
about: A pod waits for its init container, and runs then.
stages: [model]
steps:
  - apply:
      - kind: Pod
        metadata: {name: web, annotations: {sim.keelson.dev/init: "exit=0@5s*"}}
        spec:
          initContainers: [{name: init, image: "busybox:1.36"}]
          containers: [{name: main, image: "busybox:1.36"}]
    expect: {within: 20s, pods: [{name: web, ready: true}]}
"#;

pub(super) const DEAF: &str = r#"
about: A pod that does not heed SIGTERM has all of its grace.
stages: [model]
steps:
  - apply:
      - kind: Pod
        metadata: {name: web, annotations: {sim.keelson.dev/main: "term=ignore"}}
        spec:
          terminationGracePeriodSeconds: 10
          containers: [{name: main, image: "busybox:1.36"}]
    expect: {within: 10s, pods: [{name: web, ready: true}]}
  - delete: {name: web}
    expect: {within: 30s, pods: [{name: web, gone: true}]}
"#;

pub(super) const DELETED: &str = r#"
about: A pod runs and goes.
stages: [model]
steps:
  - apply:
      - kind: Pod
        metadata: {name: web}
        spec:
          containers: [{name: main, image: "busybox:1.36"}]
    expect: {within: 10s, pods: [{name: web, ready: true}]}
  - delete: {name: web}
    expect: {within: 30s, pods: [{name: web, gone: true}]}
"#;

pub(super) const FORCED: &str = r#"
about: A pod that is deleted by force is stopped.
stages: [model]
steps:
  - apply:
      - kind: Pod
        metadata: {name: web}
        spec:
          containers: [{name: main, image: "busybox:1.36"}]
    expect: {within: 10s, pods: [{name: web, ready: true}]}
  - delete: {name: web, grace: 0}
    expect: {within: 30s, pods: [{name: web, gone: true}]}
"#;

pub(super) const JOB: &str = r#"
about: A pod runs once to its end.
stages: [model]
steps:
  - apply:
      - kind: Pod
        metadata: {name: job, annotations: {sim.keelson.dev/main: "exit=0@1s*"}}
        spec:
          restartPolicy: Never
          containers: [{name: main, image: "busybox:1.36"}]
    expect: {within: 10s, pods: [{name: job, phase: Succeeded}]}
  - wait: 30s
"#;

pub(super) const COMPACTED: &str = r#"
about: The API server has lost its history, and lists its pods again.
stages: [model]
steps:
  - apply:
      - kind: Pod
        metadata: {name: web}
        spec:
          containers: [{name: main, image: "busybox:1.36"}]
    expect: {within: 10s, pods: [{name: web, ready: true}]}
  - api: {compact: true}
    holds: {within: 30s, pods: [{name: web, ready: true, starts: 1}]}
"#;

pub(super) const TWO: &str = r#"
about: Two pods run, one after the other.
stages: [model]
steps:
  - apply:
      - kind: Pod
        metadata: {name: one}
        spec:
          containers: [{name: main, image: "busybox:1.36"}]
    expect: {within: 10s, pods: [{name: one, ready: true}]}
  - apply:
      - kind: Pod
        metadata: {name: two}
        spec:
          containers: [{name: main, image: "busybox:1.36"}]
    expect: {within: 10s, pods: [{name: two, ready: true}]}
"#;

pub(super) const LATE_NETWORK: &str = r#"
about: The network comes late, and the node is Ready then.
stages: [model]
steps:
  - network-ready: false
  - wait: 30s
    network-ready: true
  - expect: {within: 30s, node-ready: true}
"#;

pub(super) const SANDBOX_DIES: &str = r#"
about: A pod whose sandbox dies gets another.
stages: [model]
steps:
  - apply:
      - kind: Pod
        metadata: {name: web}
        spec:
          containers: [{name: main, image: "busybox:1.36"}]
    expect: {within: 10s, pods: [{name: web, ready: true}]}
  - kill: {pod: web}
  - wait: 5s
    expect: {within: 60s, pods: [{name: web, ready: true, starts: 2}]}
"#;

pub(super) const KILLED: &str = r#"
about: A container that dies is started again.
stages: [model]
steps:
  - apply:
      - kind: Pod
        metadata: {name: web}
        spec:
          containers: [{name: main, image: "busybox:1.36"}]
    expect: {within: 10s, pods: [{name: web, ready: true}]}
  - wait: 15s
    kill: {pod: web, container: main}
  - wait: 5s
    expect: {within: 60s, pods: [{name: web, ready: true, starts: 2}]}
"#;

pub(super) const DISRUPTED: &str = r#"
about: A pod is told that it will be evicted.
stages: [model]
steps:
  - apply:
      - kind: Pod
        metadata: {name: web}
        spec:
          containers: [{name: main, image: "busybox:1.36"}]
    expect: {within: 10s, pods: [{name: web, ready: true}]}
  - patch:
      resource: pods/status
      namespace: default
      name: web
      with: {status: {conditions: [{type: DisruptionTarget, status: "True", reason: EvictionByEvictionAPI}]}}
  - wait: 30s
"#;

pub(super) const MIRRORED: &str = r#"
about: A mirror that a user deletes is made again.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: web.json, pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 30s, settled: true}
  - wait: 10s
    delete: {name: web-n1, grace: 0}
  - wait: 5s
    expect: {within: 60s, settled: true}
"#;

pub(super) const AWAY: &str = r#"
about: A static pod whose manifest has said the same for long goes on while there is no API server and another manifest comes.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 30s, pods: [{name: web-n1, ready: true}]}
  - wait: 30s
    kill: {pod: web-n1, container: main}
    expect: {within: 60s, pods: [{name: web-n1, ready: true, starts: 2}]}
  - api: {away: 40s}
  - wait: 10s
    manifest: {file: other.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: other}, spec: {containers: [{name: main, image: "busybox:1.36"}]}}}
  - wait: 60s
    expect: {within: 60s, pods: [{name: web-n1, ready: true, starts: 2}, {name: other-n1, ready: true, starts: 1}]}
"#;

pub(super) const OF_URL: &str = r#"
about: The pod that the URL asks for is run anew when the URL says otherwise of it.
stages: [model]
node: {static-pods: true, static-url: true}
steps:
  - url: {pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: main, image: "busybox:1.36", args: ["1"]}]}}}
    expect: {within: 60s, pods: [{name: web-n1, ready: true}]}
  - wait: 30s
    url: {pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: main, image: "busybox:1.36", args: ["2"]}]}}}
  - wait: 60s
    expect: {within: 120s, settled: true}
"#;

pub(super) const RESTARTED: &str = r#"
about: A static pod goes on over a restart of the agent.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 30s, pods: [{name: web-n1, ready: true}]}
  - wait: 10s
    crash: {back: 1s}
  - wait: 40s
    expect: {within: 60s, settled: true, pods: [{name: web-n1, ready: true, starts: 1}]}
"#;

pub(super) const RESTARTED_ALONE: &str = r#"
about: A static pod goes on over a restart of the agent while there is no API server.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 30s, pods: [{name: web-n1, ready: true}]}
  - wait: 10s
    api: {away: 60s}
    crash: {back: 1s}
  - wait: 90s
    expect: {within: 60s, settled: true, pods: [{name: web-n1, ready: true, starts: 1}]}
"#;

pub(super) const REWRITTEN: &str = r#"
about: A static pod of which the manifest is written anew while the agent is away takes its own place, and nothing else tells the two apart.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 30s, pods: [{name: web-n1, ready: true}]}
  - wait: 10s
    crash: {back: 5s}
  - wait: 1s
    manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {dnsPolicy: Default, containers: [{name: main, image: "busybox:1.36"}]}}}
  - wait: 60s
    expect: {within: 60s, settled: true}
"#;

pub(super) const REPLACED: &str = r#"
about: A static pod of which the manifest changes while the agent is away has, as one that only the runtime knows, no grace but the least.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {terminationGracePeriodSeconds: 20, containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 30s, pods: [{name: web-n1, ready: true}]}
  - wait: 10s
    crash: {back: 2s}
  - wait: 1s
    manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {terminationGracePeriodSeconds: 20, containers: [{name: main, image: "busybox:1.36", args: ["2"]}]}}}
  - wait: 60s
    expect: {within: 60s, settled: true}
"#;

pub(super) const MOVED: &str = r#"
about: A static pod whose manifest is found in another file is another pod, which takes its place.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: a.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 30s, pods: [{name: web-n1, ready: true}]}
  - wait: 10s
    manifest: {file: b.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: main, image: "busybox:1.36"}]}}}
  - wait: 60s
    expect: {within: 60s, settled: true}
"#;

pub(super) const STATIC_FAILING: &str = r#"
about: A static pod that fails again and again has its mirror made again, also while it waits.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web, annotations: {sim.keelson.dev/main: "exit=1@2s*"}}, spec: {restartPolicy: OnFailure, containers: [{name: main, image: "busybox:1.36"}]}}}
  - wait: 100s
    delete: {name: web-n1, grace: 0}
  - wait: 20s
    expect: {within: 200s, settled: true}
"#;

pub(super) const STATIC_INIT: &str = r#"
about: A static pod that is to run once begins slowly.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: job.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: job, annotations: {sim.keelson.dev/init: "exit=0@60s*"}}, spec: {restartPolicy: Never, initContainers: [{name: init, image: "busybox:1.36"}], containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 120s, pods: [{name: job-n1, ready: true}]}
"#;

pub(super) const OTHER_IMAGE: &str = r#"
about: A static pod of which the manifest names its UID goes on under it with another image.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web, uid: web-uid}, spec: {containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 30s, pods: [{name: web-n1, ready: true}]}
  - wait: 10s
    manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web, uid: web-uid}, spec: {containers: [{name: main, image: "registry.example/a:1"}]}}}
  - wait: 60s
    expect: {within: 60s, settled: true, pods: [{name: web-n1, starts: 2}]}
"#;

pub(super) const OTHER_NETWORK: &str = r#"
about: A static pod moves to the node's network.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 30s, pods: [{name: web-n1, ready: true}]}
  - wait: 10s
    manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {hostNetwork: true, containers: [{name: main, image: "busybox:1.36"}]}}}
  - wait: 60s
    expect: {within: 60s, settled: true}
"#;

pub(super) const STATIC_JOB: &str = r#"
about: A static pod runs once to its end.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: job.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: job, annotations: {sim.keelson.dev/main: "exit=0@1s*"}}, spec: {restartPolicy: Never, containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 20s, pods: [{name: job-n1, phase: Succeeded}]}
  - wait: 30s
"#;

pub(super) const STATIC_JOB_RESTARTED: &str = r#"
about: A static pod that has run once to its end does not run again in the agent's next life.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: job.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: job, uid: job-uid, annotations: {sim.keelson.dev/main: "exit=0@1s*"}}, spec: {restartPolicy: Never, containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 20s, pods: [{name: job-n1, phase: Succeeded}]}
  - wait: 10s
    crash: {back: 1s}
  - wait: 30s
"#;

pub(super) const STATIC_DEAF_AGAIN: &str = r#"
about: A static pod that does not heed SIGTERM has all of its grace also when its manifest had gone once before.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {terminationGracePeriodSeconds: 20, containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 30s, pods: [{name: web-n1, ready: true}]}
  - manifest: {file: web.yaml}
    expect: {within: 60s, pods: [{name: web-n1, gone: true}]}
  - wait: 90s
    manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {terminationGracePeriodSeconds: 20, containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 30s, pods: [{name: web-n1, ready: true}]}
  - wait: 10s
    manifest: {file: web.yaml}
    expect: {within: 60s, pods: [{name: web-n1, gone: true}]}
"#;

pub(super) const STATIC_DEAF: &str = r#"
about: A static pod that does not heed SIGTERM has all of its grace once its manifest has gone.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web, annotations: {sim.keelson.dev/main: "term=ignore"}}, spec: {terminationGracePeriodSeconds: 20, containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 30s, pods: [{name: web-n1, ready: true}]}
  - manifest: {file: web.yaml}
    expect: {within: 60s, pods: [{name: web-n1, gone: true}]}
"#;

pub(super) const STATIC_PLAIN: &str = r#"
about: A static pod runs.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 30s, pods: [{name: web-n1, ready: true}]}
  - wait: 30s
"#;

pub(super) const STATIC_NEVER_READY: &str = r#"
about: A static pod whose probe never passes is not ready.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web, annotations: {sim.keelson.dev/main: "exec-fails=0s.."}}, spec: {containers: [{name: main, image: "busybox:1.36", readinessProbe: {exec: {command: ["true"]}, periodSeconds: 2}}]}}}
    expect: {within: 30s, pods: [{name: web-n1, running: 1}]}
  - holds: {within: 30s, pods: [{name: web-n1, ready: false}]}
"#;

pub(super) const STATIC_TWO: &str = r#"
about: Two static pods run, one after the other.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: one.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: one}, spec: {containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 30s, pods: [{name: one-n1, ready: true}]}
  - manifest: {file: two.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: two}, spec: {containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 30s, pods: [{name: two-n1, ready: true}]}
"#;

pub(super) const STATIC_PRIVATE: &str = r#"
about: A static pod has no secret that opens a private image, even if another pod has pulled it.
stages: [model]
node: {static-pods: true, private: {"private.example/app:1": "user:pass"}}
steps:
  - apply:
      - kind: Secret
        type: kubernetes.io/dockerconfigjson
        metadata: {name: right}
        stringData: {.dockerconfigjson: '{"auths":{"private.example":{"username":"user","password":"pass"}}}'}
      - kind: Pod
        metadata: {name: mine}
        spec:
          imagePullSecrets: [{name: right}]
          containers: [{name: main, image: "private.example/app:1", imagePullPolicy: Always}]
    expect: {within: 20s, pods: [{name: mine, ready: true}]}
  - manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: main, image: "private.example/app:1", imagePullPolicy: Always}]}}}
  - wait: 10s
    holds: {within: 20s, pods: [{name: web-n1, running: 0}]}
"#;

pub(super) const STATIC_DISRUPTED: &str = r#"
about: A mirror is told that it will be evicted.
stages: [model]
node: {static-pods: true}
steps:
  - manifest: {file: web.yaml, pod: {apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: main, image: "busybox:1.36"}]}}}
    expect: {within: 30s, pods: [{name: web-n1, ready: true}]}
  - patch:
      resource: pods/status
      namespace: default
      name: web-n1
      with: {status: {conditions: [{type: DisruptionTarget, status: "True", reason: EvictionByEvictionAPI}]}}
  - wait: 30s
"#;
