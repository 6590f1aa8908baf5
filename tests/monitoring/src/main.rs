//! Runs a Prometheus that scrapes the plugin on simulated nodes with faults, and evaluates every query of the dashboard and every
//! alert on it.
//!
//! Each query and each expression is one test: it must return data. Queries that are empty on a node without faults get their faults
//! from `nodes.rs`. The last line is `N passed, N failed`.

mod dashboard;
mod http;
mod nodes;
mod outputs;
mod prometheus;
mod rules;
mod runbooks;

use anyhow::Context;
use clap::Parser;
use nodes::Fleet;
use prometheus::Prometheus;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// A query that has no data for longer than this has failed. All queries share the time.
const PATIENCE: Duration = Duration::from_secs(45);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(300);

/// Evaluates the dashboard and the alerts on a real Prometheus.
#[derive(Parser)]
struct Arguments {
    /// The device plugin.
    #[arg(long)]
    plugin: PathBuf,
    /// The directory of the programs prometheus and promtool.
    #[arg(long)]
    prometheus: PathBuf,
    /// The repository.
    #[arg(long)]
    repository: PathBuf,
    /// Print what the plugin's commands print on the nodes, for the examples of the runbooks, and do nothing else.
    #[arg(long)]
    show: bool,
}

/// One test of the run: its name and the query that must return data.
struct Query {
    name: String,
    expression: String,
}

/// Counts and prints results.
#[derive(Default)]
struct Results {
    passed: u32,
    failed: u32,
}

impl Results {
    /// Prints one result. A failure has a text.
    fn add(&mut self, name: &str, failure: Option<&str>) {
        match failure {
            None => self.passed += 1,
            Some(_) => self.failed += 1,
        }
        println!("{} {name}", if failure.is_none() { "ok" } else { "FAILED" });
        failure.into_iter().flat_map(str::lines).for_each(|line| println!("    {line}"));
    }

    /// Prints one result for a list of faults, which is empty if the test has passed.
    fn add_faults(&mut self, name: &str, faults: &[String]) {
        let text = faults.join("\n");
        self.add(name, (!faults.is_empty()).then_some(text.as_str()));
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    // Before any thread starts: capabilities are per thread, and an opener with CAP_SYS_ADMIN gets no EBUSY here.
    vfio_sim_node::drop_sys_admin().context("cannot give up CAP_SYS_ADMIN")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let results = runtime.block_on(run(&arguments))?;
    println!("{} passed, {} failed", results.passed, results.failed);
    Ok(if results.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(arguments: &Arguments) -> anyhow::Result<Results> {
    // Prometheus takes a relative path as relative to its configuration.
    let directory = arguments.repository.canonicalize()?.join("deploy/monitoring");
    let read = |path: PathBuf| {
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let board: serde_json::Value = serde_json::from_str(&read(directory.join("dashboard.json"))?)?;
    let page = read(arguments.repository.join("docs/runbooks.md"))?;

    let mut results = Results::default();
    results.add_faults(
        "dashboard: ids are unique, each panel has a title, a description and a unit",
        &dashboard::faults(&board),
    );
    let mut fleet = Fleet::start(&arguments.plugin).await?;
    let outputs = outputs::of_trees(&arguments.plugin)? + &fleet.outputs(&arguments.plugin).await?;
    if arguments.show {
        print!("{outputs}");
        return Ok(results);
    }
    results
        .add_faults("each example of the runbooks is printed on a node", &outputs::faults(&page, &outputs));
    let targets = fleet.targets();
    let prometheus = Prometheus::start(&arguments.prometheus, &directory.join("alerts.yaml"), &targets)?;
    for (name, port) in &targets {
        let fault = check_metrics(arguments, *port).err().map(|error| format!("{error:#}"));
        results.add(&format!("promtool check metrics: {name}"), fault.as_deref());
    }
    let alerts = prometheus.rules(PATIENCE).await?;
    results.add_faults(
        "each alert has its texts and a section in the runbooks",
        &runbooks::faults(&alerts, &page),
    );

    let (last, first): (Vec<_>, Vec<_>) =
        rules::queries(&alerts).into_iter().partition(|(needs_end, _)| *needs_end);
    let first = first.into_iter().map(|(_, query)| query);
    all_return_data(
        &prometheus,
        &mut fleet,
        dashboard::queries(&board).into_iter().chain(first),
        &mut results,
    )
    .await;
    fleet.end_last_plugin();
    let last = last.into_iter().map(|(_, query)| query);
    all_return_data(&prometheus, &mut fleet, last, &mut results).await;
    Ok(results)
}

/// Evaluates all queries until each has returned data, with traffic on the nodes meanwhile.
async fn all_return_data(
    prometheus: &Prometheus,
    fleet: &mut Fleet,
    queries: impl Iterator<Item = Query>,
    results: &mut Results,
) {
    let until = Instant::now() + PATIENCE;
    let mut waiting: Vec<Query> = queries.collect();
    while !waiting.is_empty() {
        fleet.make_traffic().await;
        let is_late = Instant::now() > until;
        waiting.retain(|query| match prometheus.query(&query.expression) {
            Ok(data) if !data.is_empty() => {
                results.add(&query.name, None);
                data.iter().take(2).for_each(|line| println!("    {line}"));
                false
            }
            answer if is_late => {
                let why = answer.err().map_or_else(|| "no data".to_owned(), |error| format!("{error:#}"));
                results.add(&query.name, Some(&format!("{why}: {}", query.expression)));
                false
            }
            _ => true,
        });
        tokio::time::sleep(PAUSE).await;
    }
}

/// Passes what a plugin serves to `promtool check metrics`.
fn check_metrics(arguments: &Arguments, port: u16) -> anyhow::Result<()> {
    let text = http::get(port, "/metrics")?;
    let mut promtool = Command::new(arguments.prometheus.join("promtool"));
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().context("cannot start promtool")?;
    // promtool reads all before it prints.
    std::io::Write::write_all(&mut child.stdin.take().context("promtool has no input")?, text.as_bytes())?;
    let output = child.wait_with_output()?;
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    anyhow::ensure!(output.status.success() && said.trim().is_empty(), "{}: {said}", output.status);
    Ok(())
}
