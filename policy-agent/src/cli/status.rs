//! `status`, `sync` and `flows`.

use std::process::ExitCode;

use policy_agent::agent::{FlowStatus, Status, TableStatus};

use super::output::{Output, print_json, table};

/// `tables`: whether to show them too; JSON has them always.
pub(super) fn print_status(status: &Status, output: Output, tables: bool) -> anyhow::Result<()> {
    if output == Output::Json {
        return print_json(status);
    }
    let synced = if status.synced { "synced" } else { "NOT SYNCED" };
    anstream::println!("generation {}, {synced}", status.generation);
    let mut rows = table(&["POD", "INTERFACE", "STATE", "INGRESS", "EGRESS", "POLICIES"]);
    for endpoint in &status.endpoints {
        let isolated = |yes: bool| if yes { "isolated" } else { "open" };
        rows.add_row([
            endpoint.pod.clone(),
            or_dash(&endpoint.interface),
            endpoint.state.name().to_owned(),
            isolated(endpoint.ingress_isolated).to_owned(),
            isolated(endpoint.egress_isolated).to_owned(),
            or_dash(&endpoint.policies.join(", ")),
        ]);
    }
    anstream::println!("{rows}");
    if tables {
        print_tables(status);
    }
    for error in &status.errors {
        anstream::println!("error: {error}");
    }
    for warning in &status.warnings {
        anstream::println!("warning: {warning}");
    }
    Ok(())
}

fn print_tables(status: &Status) {
    let mut rows = table(&["TABLE", "USED", "CAPACITY", "SHARE", "MEMORY", ""]);
    for TableStatus { table, used, capacity, bytes, full } in &status.tables {
        let share = u128::from(*used) * 100 / u128::from(*capacity).max(1);
        rows.add_row([
            table.clone(),
            used.to_string(),
            capacity.to_string(),
            format!("{share}%"),
            amount(*bytes),
            if *full { "FULL" } else { "" }.to_owned(),
        ]);
    }
    let sum = status.tables.iter().map(|table| table.bytes).sum();
    anstream::println!("{rows}");
    anstream::println!("tables take {} of at most {}", amount(sum), amount(status.table_memory));
}

/// In the unit that gives a number of some digits.
fn amount(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

pub(super) fn print_sync(status: &Status, output: Output) -> anyhow::Result<ExitCode> {
    for error in &status.errors {
        anstream::eprintln!("{error}");
    }
    match output {
        Output::Json => {
            print_json(&serde_json::json!({ "generation": status.generation, "synced": status.synced }))?;
        }
        Output::Text => anstream::println!("{}", status.generation),
    }
    Ok(if status.synced { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) fn print_flows(flows: &[FlowStatus], output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return print_json(&flows);
    }
    let mut rows = table(&["POD", "PROTOCOL", "PORT", "REMOTE", "OPENED BY", "STATE", "SEEN", "LEFT"]);
    for flow in flows {
        rows.add_row([
            flow.pod.clone(),
            flow.protocol.clone(),
            flow.local_port.to_string(),
            flow.remote.clone(),
            or_dash(&flow.opener),
            flow.state.clone(),
            format!("{}s ago", flow.seen_seconds),
            format!("{}s", flow.left_seconds),
        ]);
    }
    anstream::println!("{rows}");
    Ok(())
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}
