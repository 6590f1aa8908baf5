//! The values that the chart is tested with: every documented combination, and bad ones.

use crate::context::Context;
use crate::scratch::Scratch;
use crate::{Result, process};

/// Good values: their name, Helm's arguments, and what the manifest contains.
pub(super) type Good = (String, Vec<String>, Vec<String>);
/// Bad values: their name, Helm's arguments, and what the error contains.
pub(super) type Bad = (&'static str, Vec<String>, &'static str);

/// What the manifest of the defaults contains.
const DEFAULTS: &[&str] = &[
    "--listen=:9440",
    "NO_PROBE",
    "drop: [ALL]",
    "path: /var/lib/kubelet/pod-resources,",
    // The new pod starts first and takes over from the old one.
    "rollingUpdate:\n      maxSurge: 1\n      maxUnavailable: 0",
];

/// Settings by `--set`, and what the manifest then contains.
const SETTINGS: &[(&str, &[&str])] = &[
    ("mode=probing", &["privileged: true", "hostPID: true", "mountPath: /host/proc"]),
    ("image.repository=registry.example.com/a/b,image.tag=1.2.3", &["registry.example.com/a/b:1.2.3\""]),
    (
        "image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef,image.pullPolicy=Always",
        &["vfio-device-plugin@sha256:0123456789abcdef", "imagePullPolicy: Always"],
    ),
    ("image.pullSecrets={first,second}", &["- name: second"]),
    (
        "pools.existingConfigMap=mine",
        &["configMap: {name: mine}", "value: /etc/vfio-device-plugin/pools.yaml"],
    ),
    (
        "pools.existingConfigMap=mine,pools.optional=true",
        &["configMap: {name: mine, optional: true}", "key: path"],
    ),
    (
        "pools.existingConfigMap=mine,cdi.mount=true",
        &["hostPath: {path: /var/run/cdi, type: DirectoryOrCreate}"],
    ),
    ("backend=legacy", &["backend: legacy"]),
    ("backend=iommufd", &["backend: iommufd"]),
    ("backend=both", &["backend: both"]),
    ("cdi.mode=devices", &["cdi: devices", "mountPath: /var/run/cdi"]),
    ("cdi.mode=annotations", &["cdi: annotations"]),
    ("cdi.mode=names,backend=iommufd,mode=probing", &["cdi: names", "backend: iommufd"]),
    (
        "cdi.mode=devices,cdi.dir=/etc/cdi",
        &["VFIO_DEVICE_PLUGIN_CDI_DIR, value: /etc/cdi", "mountPath: /etc/cdi"],
    ),
    (
        "kubeletRoot=/var/snap/microk8s/common/var/lib/kubelet",
        &[
            "path: /var/snap/microk8s/common/var/lib/kubelet/pod-resources",
            "path: /var/lib/kubelet/device-plugins",
        ],
    ),
    (
        "kubeletRoot=/var/lib/rancher/rke2/agent/kubelet",
        &["path: /var/lib/rancher/rke2/agent/kubelet/pod-resources"],
    ),
    ("kubeletRoot=/var/data/kubelet", &["VFIO_DEVICE_PLUGIN_KUBELET_ROOT, value: /var/data/kubelet"]),
    (
        "kubeletRoot=/opt/kubelet,kubeletDevicePlugins=/opt/kubelet/device-plugins",
        &["path: /opt/kubelet/device-plugins", "VFIO_DEVICE_PLUGIN_KUBELET_DIR"],
    ),
    ("listen.enabled=false", &["exec: {command"]),
    ("listen.address=[::],listen.port=9000", &["--listen=[::]:9000", "containerPort: 9000"]),
    (
        "podMonitor.enabled=true,podMonitor.labels.release=prometheus,podMonitor.interval=30s",
        &[
            "honorLabels: true",
            "release: prometheus",
            "interval: 30s",
            "targetLabel: node",
            "replacement: vfio-device-plugin",
        ],
    ),
    (
        "serviceMonitor.enabled=true,serviceMonitor.honorLabels=false,serviceMonitor.scrapeTimeout=5s",
        &["kind: ServiceMonitor", "clusterIP: None", "honorLabels: false"],
    ),
    ("log.level=debug,log.format=text", &["--log-level=debug", "--log-format=text"]),
    (
        "nodeSelector.nvidia\\.com/gpu\\.workload\\.config=vm-passthrough",
        &["nvidia.com/gpu.workload.config: vm-passthrough"],
    ),
    (
        "priorityClassName=,dnsPolicy=ClusterFirst,updateStrategy.type=OnDelete",
        &["type: OnDelete", "dnsPolicy: ClusterFirst"],
    ),
    ("offer=dra,updateStrategy.type=OnDelete", &["type: OnDelete"]),
    (
        "updateStrategy.rollingUpdate.maxSurge=0,updateStrategy.rollingUpdate.maxUnavailable=50%",
        &["maxSurge: 0", "maxUnavailable: 50%"],
    ),
    ("resources=null,tolerations=null", &["readOnlyRootFilesystem: true"]),
    ("resources.limits.memory=128Mi,resources.requests.cpu=1", &["memory: 128Mi"]),
    ("podAnnotations.a=b,podLabels.c=d", &["a: b", "c: d"]),
    (
        "extraArgs={--busy=advertise,--checks=none},extraEnv[0].name=NO_COLOR,extraEnv[0].value=yes",
        &["- \"--busy=advertise\"", "name: NO_COLOR"],
    ),
    ("serviceAccount.create=true", &["kind: ServiceAccount", "serviceAccountName: vfio-device-plugin"]),
    ("serviceAccount.name=mine", &["serviceAccountName: mine"]),
    (
        "openshift.enabled=true",
        &[
            "name: kube-system-vfio-device-plugin",
            "seLinuxOptions: {type: spc_t}",
            "allowPrivilegedContainer: false",
        ],
    ),
    ("openshift.enabled=true,mode=probing", &["allowPrivilegedContainer: true", "allowHostPID: true"]),
    (
        "offer=dra",
        &[
            "kind: ClusterRoleBinding",
            "kind: ValidatingAdmissionPolicyBinding",
            "system:serviceaccount:kube-system:vfio-device-plugin",
            "serviceAccountName: vfio-device-plugin",
            "automountServiceAccountToken: true",
            "VFIO_DEVICE_PLUGIN_OFFER, value: dra",
            "valueFrom: {fieldRef: {fieldPath: spec.nodeName}}",
            "mountPath: /var/lib/kubelet/plugins/vfio-probe.github.io",
            "mountPath: /var/lib/kubelet/plugins_registry",
            "mountPath: /var/run/cdi",
            "NO_PROBE",
            // The driver runs once on a node.
            "rollingUpdate:\n      maxSurge: 0\n      maxUnavailable: 1",
        ],
    ),
    ("offer=dra,mode=probing", &["privileged: true", "automountServiceAccountToken: true"]),
    (
        "offer=dra,dra.driver=vfio.example.com,kubeletRoot=/opt/kubelet",
        &[
            "VFIO_DEVICE_PLUGIN_DRA_DRIVER, value: vfio.example.com",
            "path: /opt/kubelet/plugins/vfio.example.com",
            "path: /opt/kubelet/plugins_registry",
            "slice.spec.driver == \"vfio.example.com\"",
        ],
    ),
    (
        "offer=dra,serviceAccount.name=mine",
        &["serviceAccountName: mine", "system:serviceaccount:kube-system:mine"],
    ),
    ("offer=dra,dra.admissionPolicy=false", &["kind: ClusterRole"]),
    (
        "offer=device-plugin,dra.keep=true",
        &["kind: ClusterRole", "name: VFIO_DEVICE_PLUGIN_NODE", "maxSurge: 0"],
    ),
    (
        "pools.inline[0].select[0].vendor=10de,pools.inline[0].offer=dra",
        &["kind: ClusterRole", "name: VFIO_DEVICE_PLUGIN_NODE", "- offer: dra"],
    ),
    (
        "offer=dra,openshift.enabled=true,podMonitor.enabled=true",
        &["kind: SecurityContextConstraints", "kind: ClusterRole"],
    ),
    ("seLinuxType=spc_t", &["seLinuxOptions: {type: spc_t}"]),
    ("fullnameOverride=gpus", &["name: gpus"]),
];

/// Returns the good values: those above, and the examples, which docs/install.md names.
pub(super) fn good(context: &Context) -> Vec<Good> {
    let texts = |parts: &[&str]| parts.iter().map(|&part| part.to_owned()).collect();
    let mut all: Vec<Good> = vec![("defaults".into(), Vec::new(), texts(DEFAULTS))];
    all.extend(SETTINGS.iter().map(|(settings, parts)| (settings.to_string(), set(settings), texts(parts))));
    for file in process::entries(&context.top.join("deploy/chart/examples")) {
        let words = vec!["--values".to_owned(), file.display().to_string()];
        let expected: &[&str] = match process::file_name(&file).as_str() {
            "k0s.yaml" => {
                &["path: /var/lib/k0s/kubelet/pod-resources", "path: /var/lib/kubelet/device-plugins,"]
            }
            "kata-cdi.yaml" => &["cdi: devices", "privileged: true", "mountPath: /var/run/cdi"],
            "openshift.yaml" => {
                &["kind: SecurityContextConstraints", "name: prometheus-k8s", "kind: PodMonitor"]
            }
            "kubevirt.yaml" => &["nvidia.com/gpu.workload.config: vm-passthrough"],
            _ => &["kind: DaemonSet"],
        };
        all.push((process::file_name(&file), words, texts(expected)));
    }
    all
}

/// Returns the bad values.
pub(super) fn bad(work: &Scratch) -> Result<Vec<Bad>> {
    let pool = "pools.inline[0].select[0]";
    let pool_with = |text: &str| set(&format!("{pool}.vendor=10de,{text}"));
    Ok(vec![
        ("an unknown key", set("kubeletroot=/var/lib/kubelet"), "'kubeletroot' not allowed"),
        ("an unknown key of an object", set("image.name=a"), "'name' not allowed"),
        ("an unknown mode", set("mode=privileged"), "'/mode'"),
        ("a tag that is a number", set("image.tag=1"), "'/image/tag'"),
        ("a digest without its algorithm", set("image.digest=0123"), "'/image/digest'"),
        ("a relative root directory", set("kubeletRoot=kubelet"), "'/kubeletRoot'"),
        ("a port out of range", set("listen.port=70000"), "'/listen/port'"),
        ("an address that is a name", set("listen.address=localhost"), "'/listen/address'"),
        ("an IPv6 address without brackets", set("listen.address=::"), "'/listen/address'"),
        ("an unknown backend", set("backend=vfio"), "'/backend'"),
        ("an unknown CDI mode", set("cdi.mode=on"), "'/cdi/mode'"),
        ("an option that the chart sets", set("extraArgs={--root=/}"), "'/extraArgs/0'"),
        ("an argument that is no option", set("extraArgs={list}"), "'/extraArgs/0'"),
        (
            "a monitor without metrics",
            set("podMonitor.enabled=true,listen.enabled=false"),
            "need listen.enabled",
        ),
        (
            "a monitor of a loopback address",
            set("serviceMonitor.enabled=true,listen.address=127.0.0.1"),
            "not a loopback address",
        ),
        (
            "a variable that the chart sets",
            set("extraEnv[0].name=VFIO_DEVICE_PLUGIN_ROOT,extraEnv[0].value=/"),
            "'/extraEnv/0/name'",
        ),
        (
            "a pod more and a pod less",
            set("updateStrategy.rollingUpdate.maxUnavailable=1,updateStrategy.rollingUpdate.maxSurge=1"),
            "'/updateStrategy/rollingUpdate'",
        ),
        (
            "an update that may do nothing",
            set("updateStrategy.rollingUpdate.maxSurge=0,updateStrategy.rollingUpdate.maxUnavailable=0"),
            "'/updateStrategy/rollingUpdate'",
        ),
        (
            "a surge that is no percentage",
            set("updateStrategy.rollingUpdate.maxSurge=half"),
            "'/updateStrategy/rollingUpdate/maxSurge'",
        ),
        (
            "a surge of DRA drivers",
            set(
                "offer=dra,updateStrategy.rollingUpdate.maxSurge=1,updateStrategy.rollingUpdate.maxUnavailable=0",
            ),
            "maxSurge: 0",
        ),
        ("an unknown way to offer", set("offer=both"), "'/offer'"),
        ("a driver that is no DNS name", set("offer=dra,dra.driver=Vfio"), "'/dra/driver'"),
        ("an option of the DRA driver that the chart sets", set("extraArgs={--node=a}"), "'/extraArgs/0'"),
        (
            "a variable of the DRA driver that the chart sets",
            set("extraEnv[0].name=VFIO_DEVICE_PLUGIN_OFFER,extraEnv[0].value=dra"),
            "'/extraEnv/0/name'",
        ),
        (
            "pools in two places",
            set(&format!("{pool}.vendor=10de,pools.existingConfigMap=a")),
            "'/pools/inline'",
        ),
        ("a backend beside a ConfigMap", set("pools.existingConfigMap=a,backend=both"), "'/backend'"),
        ("an optional ConfigMap without a name", set("pools.optional=true"), "'/pools/optional'"),
        ("a pool without selectors", set("pools.inline[0].resource=a.b/c"), "'select'"),
        ("an unknown key of a pool", pool_with("pools.inline[0].selects=a"), "'selects' not allowed"),
        ("an unknown key of a selector", set(&format!("{pool}.vendors=10de")), "'vendors' not allowed"),
        ("a broken id", pool_with(&format!("{pool}.device=23300")), "device"),
        ("a resource of Kubernetes", pool_with("pools.inline[0].resource=kubernetes.io/gpu"), "resource"),
        ("an unknown backend of a pool", pool_with("pools.inline[0].backend=all"), "backend"),
        (
            "an id that YAML reads as a number",
            yaml(work, "1", "pools: {inline: [{select: [{vendor: 0x10de}]}]}")?,
            "vendor",
        ),
        (
            "a class that YAML reads as octal",
            yaml(work, "2", "pools: {inline: [{select: [{class: 03}]}]}")?,
            "class",
        ),
        (
            "an alias that YAML reads as a number",
            yaml(work, "3", "pools: {inline: [{select: [{}], alias: {0x20b0: A}}]}")?,
            "8368",
        ),
        ("null instead of an id", yaml(work, "4", "pools: {inline: [{select: [{driver: }]}]}")?, "driver"),
    ])
}

fn set(settings: &str) -> Vec<String> {
    vec!["--set".into(), settings.into()]
}

/// Returns a file with values. `--set` would not read numbers as YAML does.
fn yaml(work: &Scratch, name: &str, text: &str) -> Result<Vec<String>> {
    let file = work.join(format!("{name}-values.yaml"));
    process::write(&file, text)?;
    Ok(vec!["--values".into(), file.display().to_string()])
}
