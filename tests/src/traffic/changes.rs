//! Changes of policy that all mean the same to the traffic: `guest/client` may reach the shop on TCP 80 and UDP 5300; nobody
//! may reach the vault or be reached by it, nor the shop's port 9999, nor, as `guest/prisoner`, anything of the shop. Sets,
//! classes, ports and prefixes around that change as much as they can. One thing has a meaning: whether the client may
//! reach the shop on UDP 8888.

use std::collections::BTreeMap;

use crate::agent_world::{Lab, policy};
use crate::random::Random;
use anyhow::Result;

/// Who may call the shop; the part in front of the port list and behind it is the same in all.
const CALLERS: [&str; 5] = [
    "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: guest}}, podSelector: {matchLabels: {app: client}}}",
    "{namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: In, values: [client, nobody]}]}}",
    "{ipBlock: {cidr: CLIENT4/32}}, {ipBlock: {cidr: 'CLIENT6/128'}}",
    "{ipBlock: {cidr: CLIENT4/32}}, {ipBlock: {cidr: 'CLIENT6/128'}}, {namespaceSelector: {matchLabels: {team: none}}}, {podSelector: {}}",
    "{ipBlock: {cidr: 10.244.0.0/16, except: [10.244.2.0/24, INTRUDER4/32, PRISONER4/32]}}, {ipBlock: {cidr: 'CLIENT6/128'}}",
];
const SHOP_PORTS: [&str; 4] = [
    "[{port: 80}, {port: 5300, protocol: UDP}]",
    "[{port: 79, endPort: 81}, {protocol: UDP, port: 5000, endPort: 5999}]",
    "[{port: web}, {protocol: UDP, port: 5300}, {port: 9, protocol: SCTP}]",
    // Wide.
    "[{port: 1, endPort: 9998}, {protocol: UDP, port: 1, endPort: 7776}, {protocol: UDP, port: 10000}]",
];
/// Of the client. None: nothing isolates it.
const CLIENT_OUT: [Option<&str>; 5] = [
    None,
    Some("[{}]"),
    Some("[{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}}]}]"),
    // Wide from here on.
    Some("[{ports: [{port: 80}, {port: 1, endPort: 9000, protocol: UDP}]}]"),
    Some(
        "[{to: [{ipBlock: {cidr: 10.244.0.0/16, except: [10.244.9.0/24]}}, {ipBlock: {cidr: 'fd00:10:244::/48'}}], ports: [{port: web}, {port: 80}, {protocol: UDP}]}]",
    ),
];
/// The shop's own connections: it only ever answers.
const SHOP_OUT: [Option<&str>; 3] =
    [None, Some("[]"), Some("[{to: [{podSelector: {}}], ports: [{port: 443}]}]")];
/// What may come to the guests: answers need no rule.
const GUEST_IN: [Option<&str>; 3] = [None, Some("[]"), Some("[{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}]")];
const VAULT_IN: [&str; 4] = [
    "[]",
    "[{from: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 80}]}]",
    "[{from: [{podSelector: {matchLabels: {app: nobody}}}]}, {ports: [{port: 1, endPort: 79}]}]",
    "[{from: [{namespaceSelector: {matchLabels: {team: none}}}, {ipBlock: {cidr: 10.244.9.0/24}}]}]",
];
const VAULT_OUT: [&str; 4] = [
    "[]",
    "[{to: [{ipBlock: {cidr: 192.0.2.0/24}}]}]",
    "[{to: [{podSelector: {matchLabels: {app: nobody}}}]}, {ports: [{port: 1, endPort: 79}]}]",
    "[{to: [{namespaceSelector: {matchLabels: {team: none}}}, {ipBlock: {cidr: 10.244.9.0/24}}], ports: [{port: 443}]}]",
];
const PRISONER_OUT: [&str; 3] = [
    "[]",
    "[{to: [{ipBlock: {cidr: 192.0.2.0/24}}]}]",
    "[{to: [{podSelector: {}}]}, {to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.244.0.0/16]}}]}, {ports: [{port: 1, endPort: 79}]}]",
];
/// Labels of pods and namespaces that nothing above selects for good.
const VALUES: [&str; 3] = ["a", "b", "c"];

/// All policies are in one file, so that many can change at once.
const FILE: &str = "policies.yaml";
const SWITCH: &str = "shop/switch";

#[derive(Debug)]
pub struct Changes {
    random: Random,
    /// By `namespace/name`, what is inside of their specs.
    policies: BTreeMap<String, String>,
    /// Ports in ranges of thousands are among the forms, and stand at their ends.
    wide: bool,
    addresses: Vec<(&'static str, String)>,
}

impl Changes {
    /// The policies that are always there, each in its first form.
    pub fn begin(lab: &Lab, seed: u64) -> Result<Self> {
        let mut addresses = Vec::new();
        for (pod, v4, v6) in [
            ("guest/client", "CLIENT4", "CLIENT6"),
            ("guest/intruder", "INTRUDER4", "INTRUDER6"),
            ("guest/prisoner", "PRISONER4", "PRISONER6"),
        ] {
            let pod = lab.world.pod(pod)?;
            addresses.push((v4, pod.ipv4.to_string()));
            addresses.push((v6, pod.ipv6.to_string()));
        }
        let mut changes =
            Self { random: Random::new(seed), policies: BTreeMap::new(), wide: true, addresses };
        changes.shop_in();
        changes.set("vault/in", Some(ingress("{}", VAULT_IN[0])));
        changes.set("vault/out", Some(egress("{}", VAULT_OUT[0])));
        changes.set("guest/prison", Some(egress("{matchLabels: {app: prisoner}}", PRISONER_OUT[0])));
        changes.write(lab)?;
        Ok(changes)
    }

    /// From now on no ranges of thousands of ports: each port is a write, and whoever traces writes waits for them.
    pub const fn narrow(&mut self) {
        self.wide = false;
    }

    /// One change of one object.
    pub fn next(&mut self, lab: &mut Lab) -> Result<()> {
        match self.random.below(11) {
            0 => self.labels(lab),
            // Twice as often as others: the most is said in it.
            1 | 2 => {
                self.shop_in();
                self.write(lab)
            }
            which => {
                self.change(which);
                self.write(lab)
            }
        }
    }

    /// Every policy changes at once.
    pub fn all(&mut self, lab: &Lab) -> Result<()> {
        self.shop_in();
        (3..11).for_each(|which| self.change(which));
        self.write(lab)
    }

    /// Isolates both ends of every flow against what comes back: without memory of who opened it, it would be cut.
    pub fn answers_need_memory(&mut self, lab: &Lab) -> Result<()> {
        self.set("guest/in", Some(ingress("{}", "[]")));
        self.set("shop/out", Some(egress("{}", "[]")));
        self.write(lab)
    }

    /// What is in force, to come back to it.
    #[must_use]
    pub fn form(&self) -> BTreeMap<String, String> {
        self.policies.clone()
    }

    /// Takes a form again that was in force before.
    pub fn return_to(&mut self, lab: &Lab, form: &BTreeMap<String, String>) -> Result<()> {
        self.policies.clone_from(form);
        self.write(lab)
    }

    /// Whether the client may reach the shop's port of the switch.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.policies.contains_key(SWITCH)
    }

    fn change(&mut self, which: usize) {
        match which {
            3 => {
                let rules = self.pick(if self.wide { &CLIENT_OUT } else { &CLIENT_OUT[..3] });
                self.set("guest/out", rules.map(|rules| egress("{matchLabels: {app: client}}", rules)));
            }
            4 => {
                let rules = self.pick(&SHOP_OUT);
                self.set("shop/out", rules.map(|rules| egress("{}", rules)));
            }
            5 => {
                let rules = self.pick(&GUEST_IN);
                self.set("guest/in", rules.map(|rules| ingress("{}", rules)));
            }
            6 => {
                let rules = self.pick(&VAULT_IN);
                self.set("vault/in", Some(ingress("{}", rules)));
            }
            7 => {
                let rules = self.pick(&VAULT_OUT);
                self.set("vault/out", Some(egress("{}", rules)));
            }
            8 => {
                let rules = self.pick(&PRISONER_OUT);
                self.set("guest/prison", Some(egress("{matchLabels: {app: prisoner}}", rules)));
            }
            9 => self.extra(),
            _ => {
                let rules = "[{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: client}}}], ports: [{port: 8888, protocol: UDP}]}]";
                self.set(SWITCH, (!self.is_on()).then(|| ingress("{}", rules)));
            }
        }
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.random.below(all.len())]
    }

    fn shop_in(&mut self) {
        let callers = self.pick(&CALLERS);
        let ports = self.pick(if self.wide { &SHOP_PORTS } else { &SHOP_PORTS[..3] });
        let open = "{ports: [{port: 7777, protocol: UDP}]}";
        let rules = format!("[{{from: [{callers}], ports: {ports}}}, {open}]");
        self.set("shop/in", Some(ingress("{}", &rules)));
    }

    /// A policy of another namespace comes, changes or goes. It names ports and addresses of the traffic, so that their
    /// classes split and join.
    fn extra(&mut self) {
        let name = format!("other/extra{}", self.random.below(5));
        if self.random.one_in(3) {
            return self.set(&name, None);
        }
        let port = self.pick(&[80, 81, 443, 5300, 7777, 9999]);
        let end = port + self.random.below(if self.wide { 3000 } else { 30 });
        let protocol = self.pick(&["TCP", "UDP", "SCTP"]);
        let length = 8 + self.random.below(25);
        let value = self.pick(&VALUES);
        self.set(
            &name,
            Some(format!(
                "podSelector: {{}}, ingress: [{{from: [{{ipBlock: {{cidr: CLIENT4/{length}}}}}, {{podSelector: {{matchLabels: {{app: {value}}}}}}}, \
                 {{namespaceSelector: {{matchLabels: {{team: {value}}}}}}}], ports: [{{port: {port}, endPort: {end}, protocol: {protocol}}}]}}]"
            )),
        );
    }

    /// A pod or a namespace gets other labels.
    fn labels(&mut self, lab: &mut Lab) -> Result<()> {
        let value = self.pick(&VALUES);
        if self.random.one_in(3) {
            return lab.manifests.namespace("other", &[("team", value)]);
        }
        let (pod, key) = self.pick(&[
            ("other/one", "app"),
            ("other/two", "app"),
            ("guest/client", "tier"),
            ("shop/near", "app"),
        ]);
        lab.world.pod_mut(pod)?.labels.insert(key.to_owned(), value.to_owned());
        lab.manifests.pod(lab.world.pod(pod)?)
    }

    fn set(&mut self, name: &str, spec: Option<String>) {
        let Some(mut spec) = spec else {
            self.policies.remove(name);
            return;
        };
        for (word, address) in &self.addresses {
            spec = spec.replace(word, address);
        }
        self.policies.insert(name.to_owned(), spec);
    }

    fn write(&self, lab: &Lab) -> Result<()> {
        let all: Vec<String> = self.policies.iter().map(|(name, spec)| policy(name, spec)).collect();
        lab.manifests.write(FILE, &all.join("---\n"))
    }
}

fn ingress(pods: &str, rules: &str) -> String {
    format!("podSelector: {pods}, policyTypes: [Ingress], ingress: {rules}")
}

fn egress(pods: &str, rules: &str) -> String {
    format!("podSelector: {pods}, policyTypes: [Egress], egress: {rules}")
}
