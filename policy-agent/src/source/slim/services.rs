//! Services and EndpointSlices.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;

use super::{Metadata, Object};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct Service {
    pub(in super::super) metadata: Option<Object<Metadata>>,
    pub(in super::super) spec: Option<Object<ServiceSpec>>,
    pub(in super::super) status: Option<Object<ServiceStatus>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in super::super) struct ServiceSpec {
    #[serde(rename = "type")]
    pub(in super::super) kind: Option<String>,
    #[serde(rename = "clusterIP")]
    pub(in super::super) cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub(in super::super) cluster_ips: Option<Vec<String>>,
    pub(in super::super) ip_families: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    pub(in super::super) external_ips: Option<Vec<String>>,
    pub(in super::super) external_name: Option<String>,
    pub(in super::super) load_balancer_source_ranges: Option<Vec<String>>,
    pub(in super::super) external_traffic_policy: Option<String>,
    pub(in super::super) internal_traffic_policy: Option<String>,
    pub(in super::super) session_affinity: Option<String>,
    pub(in super::super) session_affinity_config: Option<Object<SessionAffinityConfig>>,
    pub(in super::super) ports: Option<Vec<Object<ServicePort>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct SessionAffinityConfig {
    #[serde(rename = "clientIP")]
    pub(in super::super) client_ip: Option<Object<ClientIp>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in super::super) struct ClientIp {
    pub(in super::super) timeout_seconds: Option<i32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in super::super) struct ServicePort {
    pub(in super::super) name: Option<String>,
    pub(in super::super) protocol: Option<String>,
    pub(in super::super) port: Option<i32>,
    pub(in super::super) target_port: Option<IntOrString>,
    pub(in super::super) node_port: Option<i32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in super::super) struct ServiceStatus {
    pub(in super::super) load_balancer: Option<Object<LoadBalancerStatus>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct LoadBalancerStatus {
    pub(in super::super) ingress: Option<Vec<Object<LoadBalancerIngress>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in super::super) struct LoadBalancerIngress {
    pub(in super::super) ip: Option<String>,
    pub(in super::super) ip_mode: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in super::super) struct EndpointSlice {
    pub(in super::super) metadata: Option<Object<Metadata>>,
    pub(in super::super) address_type: Option<String>,
    pub(in super::super) endpoints: Option<Vec<Object<Endpoint>>>,
    pub(in super::super) ports: Option<Vec<Object<EndpointPort>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in super::super) struct Endpoint {
    pub(in super::super) addresses: Option<Vec<String>>,
    pub(in super::super) conditions: Option<Object<EndpointConditions>>,
    pub(in super::super) node_name: Option<String>,
    pub(in super::super) hints: Option<Object<EndpointHints>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct EndpointConditions {
    pub(in super::super) ready: Option<bool>,
    pub(in super::super) serving: Option<bool>,
    pub(in super::super) terminating: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in super::super) struct EndpointHints {
    pub(in super::super) for_zones: Option<Vec<Object<Named>>>,
    pub(in super::super) for_nodes: Option<Vec<Object<Named>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct Named {
    pub(in super::super) name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct EndpointPort {
    pub(in super::super) name: Option<String>,
    pub(in super::super) protocol: Option<String>,
    pub(in super::super) port: Option<i32>,
}
