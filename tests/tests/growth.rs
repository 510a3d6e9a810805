//! A table that is full grows, as long as memory lasts: a generation of larger tables takes the place of the one in force,
//! and nobody's connection notices. The next agent takes the larger ones over.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sluice_netns::{NodeSpec, Outcome, PodSpec, TcpConn, World};
use sluice_tests::agent_world::{Lab, policy, policy_file};

/// Room for 16,384 networks at the start, and for several times as many.
const MEMORY: &str = "64Mi";
const NETWORKS: u32 = 20_000;
const PATIENCE: Duration = Duration::from_secs(5);

fn table(status: &Value, name: &str) -> Result<(u64, u64)> {
    let tables = status["tables"].as_array().context("no tables in status")?;
    let table = tables.iter().find(|table| table["table"] == name).context("no such table")?;
    let number = |field: &str| table[field].as_u64().with_context(|| format!("{field} in {table}"));
    Ok((number("used")?, number("capacity")?))
}

#[test]
fn a_full_table_grows_under_connections_and_is_taken_over_as_it_is() -> Result<()> {
    let world = World::builder("slgro")
        .node(NodeSpec::new("node1"))
        .namespace("dev", &[("team", "dev")])
        .pod(PodSpec::new("dev", "web", "node1").serve_tcp(80))
        .pod(PodSpec::new("dev", "client", "node1").label("app", "client"))
        .pod(PodSpec::new("dev", "stranger", "node1"));
    let mut lab = Lab::start_with(world, &["--table-memory", MEMORY])?;
    let client = "{podSelector: {matchLabels: {app: client}}}";
    lab.apply("dev/web", &format!("podSelector: {{}}, ingress: [{{from: [{client}]}}]"))?;
    let verdicts = "
        dev/client dev/web tcp/80 opens
        dev/stranger dev/web tcp/80 hangs
        dev/web dev/client tcp/80 hangs
    ";
    lab.expect(verdicts);
    let (_, before) = table(&lab.agents[0].status()?, "cidrs")?;
    ensure!(before < u64::from(NETWORKS), "{before} networks have room at the start");

    let web = lab.world.pod("dev/web")?.ipv4.into();
    let mut connection = TcpConn::open(&lab.ns("dev/client")?, SocketAddr::new(web, 80), PATIENCE)?;
    let mut blocks = String::new();
    for network in 0..NETWORKS {
        write!(blocks, "{{ipBlock: {{cidr: 100.{}.{}.0/24}}}}, ", network >> 8, network & 0xff)?;
    }
    let many = format!("podSelector: {{}}, ingress: [{{from: [{blocks}{client}]}}]");
    lab.manifests.write(&policy_file("dev/many"), &policy("dev/many", &many))?;
    lab.sync()?;
    let status = lab.agents[0].status()?;
    let (used, grown) = table(&status, "cidrs")?;
    ensure!(used >= u64::from(NETWORKS) && grown >= used, "{used} of {grown}");
    ensure!(lab.agents[0].log().contains("table cidrs grows"), "{}", lab.agents[0].log());
    ensure!(connection.echo(PATIENCE) == Outcome::Open, "the connection was cut when the table grew");
    lab.expect(verdicts);

    lab.agent().kill()?;
    lab.agent().restart()?;
    lab.sync()?;
    let (_, after) = table(&lab.agents[0].status()?, "cidrs")?;
    ensure!(after == grown, "{after} after {grown}");
    ensure!(lab.agents[0].log().contains("took over the tables"), "{}", lab.agents[0].log());
    ensure!(connection.echo(PATIENCE) == Outcome::Open, "the connection was cut when the agent died");
    lab.expect(verdicts);
    Ok(())
}
