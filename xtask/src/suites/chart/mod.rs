//! Tests the Helm chart: lint, every documented combination of values against Kubernetes' types of the oldest and the newest
//! version, bad values, and the manifests that are rendered from it.

mod manifests;
mod values;

use std::path::{Path, PathBuf};
use std::process::Command;

use super::go::is_formatted;
use crate::context::Context;
use crate::log::{Log, ensure};
use crate::scratch::Scratch;
use crate::suite::Suite;
use crate::{Result, process};

pub use manifests::write as manifests;

/// The chart.
const CHART: &str = "deploy/chart";
/// Helm's package, and its newest stable version.
const HELM: (&str, &str) = ("helm.sh/helm/v4/cmd/helm", "v4.3.2");
/// The package with Kubernetes' JSON schemas of all versions.
const SCHEMAS: &str = "kubernetes-validate==1.37.0";
/// The oldest and the newest version of Kubernetes that are supported.
const VERSIONS: [&str; 2] = ["1.26", "1.37"];
/// The same for Dynamic Resource Allocation.
const DRA_VERSIONS: [&str; 2] = ["1.34", "1.37"];

/// Runs the suite.
///
/// # Errors
///
/// Fails if Helm, Go or the validator cannot be installed.
pub fn chart(context: &mut Context, _: &[String]) -> Result<bool> {
    let validator = context.pip_tool(SCHEMAS)?.join("kubernetes-validate");
    let helm = helm(context)?;
    context.programs(&["vfio-device-plugin"])?;
    let work = Scratch::new()?;
    let go = context.top.join("tests/manifests");
    let gofmt = context.gofmt()?;
    let types = work.join("manifests");
    let mut suite = Suite::new();
    suite.check("format", |log| is_formatted(context, &gofmt, &go, log));
    suite.check("vet", |log| log.run(context.command("go").current_dir(&go).args(["vet", "."])));
    suite.check("program with Kubernetes' code", |log| {
        log.run(context.command("go").current_dir(&go).args(["build", "-o"]).arg(&types).arg("."))
    });

    suite.check("version of the chart", |_| has_our_version(context));
    suite.check("each value has a comment", |_| has_comments(context));
    manifests::check(context, &helm, &mut suite);

    let mut files = Vec::new();
    let mut dra_files = Vec::new();
    for (name, words, expected) in values::good(context) {
        suite.check(&format!("values: {name}"), |log| {
            log.run(helm_command(context, &helm, "lint").args(["--strict", CHART]).args(&words))?;
            let text = template(context, &helm, log, &words)?;
            for part in &expected {
                ensure(text.contains(part.as_str()), &format!("the manifest has no {part}"))?;
            }
            let file = work.join(format!("{}.yaml", files.len() + dra_files.len()));
            // Kubernetes 1.26 has no admission policies of this kind.
            let is_dra = text.contains("kind: ClusterRole");
            process::write(&file, text)?;
            let files = if is_dra { &mut dra_files } else { &mut files };
            files.push(file);
            Ok(())
        });
    }
    for (what, versions, files) in [("", VERSIONS, &files), (" with DRA", DRA_VERSIONS, &dra_files)] {
        for version in versions {
            suite.check(&format!("Kubernetes {version}{what}"), |log| {
                let mut validate = context.command(&validator);
                log.run(validate.args(["--strict", "-k", version]).args(files))
            });
        }
    }
    let mut typed = context.command(&types);
    typed.arg("-program").arg(context.debug("vfio-device-plugin")).args(&files).args(&dra_files);
    typed.args(process::entries(&context.top.join("deploy/dra/examples")));
    suite.count("Kubernetes' code and the plugin's settings", typed);
    suite.check("a broken manifest is found by each", |log| {
        finds_faults(context, &validator, &types, &work, files.first().ok_or("no values were rendered")?, log)
    });
    suite.check("a broken example is found", |log| finds_faults_of_examples(context, &types, &work, log));
    for (name, words, message) in values::bad(&work)? {
        suite.check(&format!("bad values: {name}"), |_| is_refused(context, &helm, &words, message));
    }
    suite.check("oldest Kubernetes of the chart", |_| {
        let words = |version: &str| vec!["--kube-version".to_owned(), version.to_owned()];
        is_refused(context, &helm, &words("1.25.16"), "incompatible")?;
        VERSIONS
            .iter()
            .try_for_each(|version| template(context, &helm, &mut Log::new()?, &words(version)).map(|_| ()))
    });
    suite.check("package", |log| is_packaged(context, &helm, &work, log));
    suite.check("notes", |log| has_notes(context, &helm, log));
    Ok(suite.end())
}

/// Installs Helm in the user's cache, and returns the program.
///
/// # Errors
///
/// Fails if Go is missing or the module cannot be fetched.
pub fn helm(context: &mut Context) -> Result<PathBuf> {
    context.need_go()?;
    context.set("CGO_ENABLED", "0");
    // As the kubelets are built: they share most packages, which compile faster without inlining.
    context.set("GOFLAGS", "-mod=readonly -trimpath -gcflags=all=-l");
    Ok(context.go_tool(HELM.0, HELM.1)?.join("helm"))
}

/// Returns a command of Helm that reads no settings of the user.
fn helm_command(context: &Context, helm: &Path, name: &str) -> Command {
    let mut command = context.command(helm);
    command.env("KUBECONFIG", "/dev/null").env("HELM_NO_PLUGINS", "1").arg(name);
    command
}

/// Renders the chart as the release that the pages use.
fn template(context: &Context, helm: &Path, log: &mut Log, words: &[String]) -> Result<String> {
    let mut command = helm_command(context, helm, "template");
    log.output(command.args(["vfio-device-plugin", CHART, "--namespace", "kube-system"]).args(words))
}

/// The chart and the program have one version.
fn has_our_version(context: &Context) -> Result {
    let version = context.version()?;
    let chart = process::read(&context.top.join(CHART).join("Chart.yaml"))?;
    for key in ["version", "appVersion"] {
        let line = format!("{key}: {version}");
        ensure(chart.lines().any(|text| text == line), &format!("Chart.yaml has no line {line}"))?;
    }
    Ok(())
}

/// Each key of values.yaml is below a comment.
fn has_comments(context: &Context) -> Result {
    let values = process::read(&context.top.join(CHART).join("values.yaml"))?;
    let lines: Vec<&str> = values.lines().map(str::trim_start).collect();
    let is_key = |line: &str| !line.starts_with('#') && line.contains(':');
    let mut pairs = lines.iter().zip(lines.iter().skip(1));
    let bare = pairs.find(|(above, line)| is_key(line) && !above.starts_with('#'));
    ensure(bare.is_none(), &format!("a value without a comment: {bare:?}"))
}

/// Fails unless Helm refuses the values with this message.
fn is_refused(context: &Context, helm: &Path, words: &[String], message: &str) -> Result {
    let mut command = helm_command(context, helm, "template");
    let output = command.args(["vfio-device-plugin", CHART]).args(words).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure(!output.status.success(), "Helm accepts it")?;
    ensure(error.contains(message), &format!("the error has no {message}: {error}"))
}

/// Each validator finds an unknown key and a value of another type. Kubernetes' code also finds a key that is written twice and a
/// value that the API server refuses.
fn finds_faults(
    context: &Context,
    validator: &Path,
    types: &Path,
    work: &Scratch,
    good: &Path,
    log: &mut Log,
) -> Result {
    let text = process::read(good)?;
    let faults = [
        ("an unknown key", "dnsPolicy:", "dnsPolicies:", true),
        ("another type", "periodSeconds: 10", "periodSeconds: often", true),
        (
            "a key that is written twice",
            "dnsPolicy: Default",
            "dnsPolicy: Default\n      dnsPolicy: Default",
            false,
        ),
        ("a value that the API server refuses", "dnsPolicy: Default", "dnsPolicy: Never", false),
    ];
    for (name, from, to, in_schema) in faults {
        ensure(text.contains(from), &format!("the manifest has no {from}"))?;
        let file = work.join("fault.yaml");
        process::write(&file, text.replacen(from, to, 1))?;
        ensure(log.run(context.command(types).arg(&file)).is_err(), &format!("the types accept {name}"))?;
        for version in VERSIONS.iter().filter(|_| in_schema) {
            let mut validate = context.command(validator);
            let found = log.run(validate.args(["--strict", "-k", version]).arg(&file)).is_err();
            ensure(found, &format!("the schema of {version} accepts {name}"))?;
        }
    }
    Ok(())
}

/// Kubernetes' and KubeVirt's code finds a key that the type does not have, and a claim that the VM does not have.
fn finds_faults_of_examples(context: &Context, types: &Path, work: &Scratch, log: &mut Log) -> Result {
    let good = process::read(&context.top.join("deploy/dra/examples/kubevirt.yaml"))?;
    for (from, to) in [
        ("requestName: gpu", "requestNames: gpu"),
        ("claimName: gpus", "claimName: other"),
        ("deviceClassName: gh100", "deviceClassName: GH100"),
        ("- name: gpu\n          exactly:", "- name: gpu\n          exact:"),
    ] {
        ensure(good.contains(from), &format!("the example has no {from}"))?;
        let file = work.join("fault.yaml");
        process::write(&file, good.replacen(from, to, 1))?;
        ensure(log.run(context.command(types).arg(&file)).is_err(), &format!("the types accept {to}"))?;
    }
    Ok(())
}

/// The packaged chart renders what the directory renders.
fn is_packaged(context: &Context, helm: &Path, work: &Scratch, log: &mut Log) -> Result {
    log.run(helm_command(context, helm, "package").arg(CHART).arg("--destination").arg(work.path()))?;
    let archive = work.join(format!("vfio-device-plugin-{}.tgz", context.version()?));
    let mut packaged = helm_command(context, helm, "template");
    packaged.arg("vfio-device-plugin").arg(&archive).args(["--namespace", "kube-system"]);
    let expected = template(context, helm, &mut Log::new()?, &[])?;
    ensure(log.output(&mut packaged)? == expected, "the package renders another manifest than the directory")
}

/// The notes say how to see the first list, and how to create classes for DRA.
fn has_notes(context: &Context, helm: &Path, log: &mut Log) -> Result {
    for (offer, command) in
        [("device-plugin", "list"), ("dra", "dra classes --extended | kubectl apply -f -")]
    {
        let mut install = helm_command(context, helm, "install");
        install.args(["gpus", CHART, "--namespace", "vfio", "--dry-run=client"]);
        let notes = log.output(install.args(["--set", &format!("offer={offer}")]))?;
        let line = format!(
            "kubectl -n vfio exec daemonset/gpus-vfio-device-plugin -- /vfio-device-plugin {command}"
        );
        ensure(notes.contains(&line), &format!("the notes have no {line}"))?;
    }
    Ok(())
}
