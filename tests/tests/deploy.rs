//! The objects that are installed in a cluster: what Kubernetes would refuse, what the chart must refuse, and what nobody may
//! add by mistake.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_tests::agent_world::agent_binary;
use sluice_tests::deploy::{capabilities, container, find, folder, objects_of, render, strict};

const NEWEST: &str = "1.35.0";

/// Values that people set, and sets of them that go together.
const GOOD: &[&[&str]] = &[
    &[],
    &[
        "metrics.service.enabled=true",
        "metrics.podMonitor.enabled=true",
        "metrics.podMonitor.labels.team=net",
    ],
    &["metrics.enabled=false", "metrics.podMonitor.enabled=true"],
    &["metrics.address=[fd00::1]:9000", "metrics.service.enabled=true"],
    &["cni.enabled=false"],
    &["cni.confDir=/var/lib/rancher/k3s/agent/etc/cni/net.d", "cni.binDir=/var/lib/rancher/k3s/data/cni"],
    &["hostPID=true"],
    &["tolerations[0].key=gpu", "tolerations[0].operator=Exists", "tolerations[0].effect=NoSchedule"],
    &["tolerations=null", "nodeSelector.pool=a", "priorityClassName=mine"],
    &["image.repository=registry.local:5000/agent", "image.tag=x", "imagePullSecrets[0].name=r"],
    &["image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"],
    &["securityContext.extraCapabilities={SYS_RESOURCE}", "securityContext.seLinuxOptions.type=spc_t"],
    &["securityContext.appArmor="],
    &["apiServer.host=10.0.0.1", "apiServer.port=6443"],
    &["updateStrategy.maxUnavailable=1", "resources.limits.memory=1Gi", "podLabels.a=b"],
    &["config.attach=clsact", "config.staleness-limit=2m"],
    &["uninstall=true"],
];

/// A set of values and what the refusal must name.
const BAD: &[(&str, &str)] = &[
    ("metrics.adress=:1", "adress"),
    ("metrics.address=9878", "metrics/address"),
    ("image.digest=sha256:12", "digest"),
    ("updateStrategy.maxUnavailable=0", "maxUnavailable"),
    ("securityContext.extraCapabilities={CAP_SYS_ADMIN}", "extraCapabilities"),
    ("securityContext.extraCapabilities={ALL}", "extraCapabilities"),
    ("securityContext.privileged=true", "privileged"),
    ("tolerations[0].efect=NoSchedule", "efect"),
    ("config.health-address=:1", "health.port"),
    ("config.Attach=clsact", "Attach"),
    ("health.port=70000", "port"),
    ("hostPID=yes", "hostPID"),
    ("hostNetwork=false", "hostNetwork"),
    ("cni.confDir=etc/cni", "confDir"),
    ("image.pullPolicy=Sometimes", "pullPolicy"),
];

/// Prometheus's operator is not Kubernetes: the fields that the chart uses, and no others.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read to be checked")]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PodMonitorSpec {
    selector: Value,
    pod_metrics_endpoints: Vec<PodMetricsEndpoint>,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read to be checked")]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PodMetricsEndpoint {
    port: String,
    interval: String,
    relabelings: Vec<Value>,
}

/// Reads every object as its type of Kubernetes.
fn check(objects: &[Value]) -> Result<()> {
    for object in objects {
        let kind =
            (object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default());
        match kind {
            ("apps/v1", "DaemonSet") => strict::<DaemonSet>(object).map(drop)?,
            ("v1", "ConfigMap") => strict::<ConfigMap>(object).map(drop)?,
            ("v1", "Service") => strict::<Service>(object).map(drop)?,
            ("v1", "ServiceAccount") => strict::<ServiceAccount>(object).map(drop)?,
            ("rbac.authorization.k8s.io/v1", "ClusterRole") => strict::<ClusterRole>(object).map(drop)?,
            ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
                strict::<ClusterRoleBinding>(object).map(drop)?;
            }
            ("monitoring.coreos.com/v1", "PodMonitor") => {
                PodMonitorSpec::deserialize(&object["spec"]).map(drop)?;
            }
            other => anyhow::bail!("nothing checks {other:?}"),
        }
    }
    Ok(())
}

#[test]
fn kubernetes_knows_every_field() -> Result<()> {
    for values in GOOD {
        let objects = render(values, NEWEST).with_context(|| format!("{values:?}"))?;
        check(&objects).with_context(|| format!("{values:?}"))?;
        pods_are_safe(find(&objects, "DaemonSet")?).with_context(|| format!("{values:?}"))?;
    }
    check(&objects_of("install.yaml")?)?;
    check(&objects_of("uninstall.yaml")?)
}

/// Every set of values gives the agent options that it knows.
#[test]
fn the_agent_understands_its_configuration() -> Result<()> {
    for values in GOOD.iter().filter(|values| !values.contains(&"uninstall=true")) {
        let objects = render(values, NEWEST).with_context(|| format!("{values:?}"))?;
        let config = &find(&objects, "ConfigMap")?["data"]["config.yaml"];
        let file = tempfile::NamedTempFile::with_suffix(".yaml")?;
        std::fs::write(file.path(), config.as_str().context("no config.yaml")?)?;
        let output = Command::new(agent_binary()?).args(["config", "check"]).arg(file.path()).output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{values:?}: {told}\n{config}");
    }
    Ok(())
}

#[test]
fn a_misspelt_field_is_found() -> Result<()> {
    let mut daemon_set = find(&objects_of("install.yaml")?, "DaemonSet")?.clone();
    daemon_set["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readOnlyRootFileSystem"] =
        json!(true);
    let error = format!("{:#}", check(&[daemon_set]).err().context("nothing was found")?);
    assert!(error.contains("readOnlyRootFileSystem"), "{error}");
    Ok(())
}

#[test]
fn the_chart_refuses_what_it_does_not_describe() -> Result<()> {
    for &(value, named) in BAD {
        let error = render(&[value], NEWEST).err().with_context(|| format!("{value} is taken"))?.to_string();
        assert!(error.contains(named), "{value}: {error}");
    }
    Ok(())
}

/// What must hold whatever the values say.
fn pods_are_safe(daemon_set: &Value) -> Result<()> {
    let spec = &daemon_set["spec"]["template"]["spec"];
    anyhow::ensure!(spec["hostNetwork"] == true, "it is not in the node's network");
    anyhow::ensure!(
        spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault",
        "no seccomp profile"
    );
    for list in ["initContainers", "containers"] {
        for container in spec[list].as_array().into_iter().flatten() {
            let context = &container["securityContext"];
            anyhow::ensure!(
                context["privileged"] == false
                    && context["allowPrivilegeEscalation"] == false
                    && context["readOnlyRootFilesystem"] == true,
                "{}: {context}",
                container["name"]
            );
            capabilities(container)?;
        }
    }
    // Kubernetes refuses this propagation to containers that aren't privileged, at the time of creation.
    anyhow::ensure!(!spec.to_string().contains("Bidirectional"), "a mount goes back to the node");
    Ok(())
}

#[test]
fn it_has_few_capabilities() -> Result<()> {
    let objects = objects_of("install.yaml")?;
    let daemon_set = find(&objects, "DaemonSet")?;
    assert_eq!(capabilities(container(daemon_set, "agent")?)?, ["NET_ADMIN", "NET_BROADCAST", "SYS_ADMIN"]);
    assert_eq!(capabilities(container(daemon_set, "install-cni")?)?, ["DAC_OVERRIDE"]);
    assert_eq!(daemon_set["spec"]["template"]["spec"]["hostPID"], Value::Null);
    Ok(())
}

#[test]
fn it_may_list_and_watch_what_policies_are_about_and_tell_events() -> Result<()> {
    let role: ClusterRole = strict(find(&objects_of("install.yaml")?, "ClusterRole")?)?;
    let mut allowed: Vec<String> = Vec::new();
    for rule in role.rules.unwrap_or_default() {
        for group in rule.api_groups.unwrap_or_default() {
            for resource in rule.resources.clone().unwrap_or_default() {
                allowed.push(format!("{group}/{resource}: {}", rule.verbs.join(" ")));
            }
        }
    }
    allowed.sort();
    assert_eq!(
        allowed,
        [
            "/namespaces: list watch",
            "/nodes: list watch",
            "/pods: list watch",
            "/services: list watch",
            "discovery.k8s.io/endpointslices: list watch",
            "events.k8s.io/events: create",
            "networking.k8s.io/networkpolicies: list watch",
        ]
    );
    Ok(())
}

/// AppArmor's field came with Kubernetes 1.30; before, it was an annotation for each container.
#[test]
fn older_clusters_get_an_annotation_for_apparmor() -> Result<()> {
    let objects = render(&[], "1.29.0")?;
    check(&objects)?;
    let daemon_set = find(&objects, "DaemonSet")?;
    for name in ["agent", "install-cni"] {
        let annotation = format!("container.apparmor.security.beta.kubernetes.io/{name}");
        assert_eq!(daemon_set["spec"]["template"]["metadata"]["annotations"][annotation], "unconfined");
        assert_eq!(container(daemon_set, name)?["securityContext"]["appArmorProfile"], Value::Null);
    }
    Ok(())
}

#[test]
fn uninstalling_differs_in_what_the_containers_do() -> Result<()> {
    let (install, uninstall) = (objects_of("install.yaml")?, objects_of("uninstall.yaml")?);
    let [uninstall] = uninstall.as_slice() else { anyhow::bail!("more than a DaemonSet") };
    let install = find(&install, "DaemonSet")?;
    // The same object with the same selector: it takes the place of the other, pod by pod.
    assert_eq!(uninstall["metadata"]["name"], install["metadata"]["name"]);
    assert_eq!(uninstall["spec"]["selector"], install["spec"]["selector"]);
    assert_eq!(container(uninstall, "agent")?["args"], json!(["uninstall", "--hold"]));
    assert_eq!(container(uninstall, "install-cni")?["args"][1], "uninstall");
    assert_eq!(capabilities(container(uninstall, "agent")?)?, capabilities(container(install, "agent")?)?);
    Ok(())
}

#[test]
fn the_chart_has_the_agents_version() -> Result<()> {
    let text = std::fs::read_to_string(folder().join("chart/sluice/Chart.yaml"))?;
    let chart: Value = serde_saphyr::from_str(&text)?;
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    Ok(())
}
