//! Answers of `explain` as text: the verdict in the first line, the reasons below.

use std::net::SocketAddr;

use policy_agent::explain::{
    Answer, EndpointExplanation, Explanation, FrontendExplanation, Outcome, ServiceExplanation,
    ServiceVerdict, Side,
};

pub(super) fn print_text(answer: &Answer) {
    match answer {
        Answer::Direct(explanation) => print_direct(explanation),
        Answer::Service(explanation) => print_service(explanation),
    }
}

fn print_direct(explanation: &Explanation) {
    anstream::println!("{}", word(explanation.verdict));
    print_side("  ", "egress", &explanation.egress);
    print_side("  ", "ingress", &explanation.ingress);
}

fn print_service(explanation: &ServiceExplanation) {
    anstream::println!("{}", service_word(explanation.verdict));
    let node = explanation
        .node
        .as_deref()
        .map_or_else(|| "an unknown node".to_owned(), |node| format!("node {node}"));
    for FrontendExplanation { address, port, protocol, verdict, reason } in &explanation.frontends {
        let at = SocketAddr::new(*address, *port);
        anstream::println!("  {at}/{protocol} is Service {}, seen from {node}", explanation.service);
        if let Some(reason) = reason {
            anstream::println!("    {}: {reason}", service_word(*verdict));
        }
        // An endpoint is of its frontend's family.
        let own = |endpoint: &&EndpointExplanation| endpoint.address.is_ipv4() == address.is_ipv4();
        explanation.endpoints.iter().filter(own).for_each(print_endpoint);
    }
}

fn print_endpoint(endpoint: &EndpointExplanation) {
    let at = SocketAddr::new(endpoint.address, endpoint.port);
    let whose = match (&endpoint.pod, &endpoint.node) {
        (Some(pod), _) => format!(" ({pod})"),
        (None, Some(node)) => format!(" (node {node})"),
        (None, None) => String::new(),
    };
    anstream::println!("  {:<6} {at}{whose}", word(endpoint.verdict));
    print_side("    ", "egress", &endpoint.egress);
    print_side("    ", "ingress", &endpoint.ingress);
}

fn print_side(indent: &str, name: &str, side: &Side) {
    anstream::println!("{indent}{name:<8} {:<6} {}", word(side.verdict), side.reason);
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Allow => "allow",
        Outcome::Deny => "deny",
    }
}

const fn service_word(verdict: ServiceVerdict) -> &'static str {
    match verdict {
        ServiceVerdict::Allow => word(Outcome::Allow),
        ServiceVerdict::Deny => word(Outcome::Deny),
        ServiceVerdict::Mixed => "depends on the endpoint",
        ServiceVerdict::NoEndpoint => "no endpoint",
    }
}
