//! Checks the DRA driver of a running `serve`, and what other drivers publish of this node.

use crate::commands::doctor::finding::{Code, Findings};
use crate::config::Config;
use crate::dra::others::devices_of_others;
use crate::driver_status::DriverStatus;
use crate::problems::ProblemCode;
use crate::status::report::StatusReport;
use vfio_plugin_policy::pools::terms::OfferBy;

/// Adds what is wrong with the DRA driver. Blocks for up to 5 s, for the API server.
pub(super) fn examine(config: &Config, report: &StatusReport, findings: &mut Findings) {
    let Some(driver) = &report.dra else { return };
    if !driver.registered {
        let why = driver.refused.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        let what = format!("is not registered with the kubelet{why}");
        let advice = "Is the kubelet running? In a container, mount the host's plugins and plugins_registry below the kubelet's root \
                      directory at the same paths; --kubelet-root, --plugins-dir and --registry-dir set others.";
        findings.warn(Code::DriverNotRegistered, about(driver), what, advice);
    }
    let slices = &driver.slices;
    let is_explained = report.problems.iter().any(|problem| {
        matches!(
            problem.code,
            ProblemCode::ApiServerUnavailable
                | ProblemCode::ApiServerForbidden
                | ProblemCode::SlicesNotWritten
        )
    });
    // Without the kubelet nothing new is published.
    if !slices.first_stored && driver.registered && !is_explained {
        let what = "has not published this node's devices since it started";
        let advice = "Look into the log of serve. It waits for the API server, and for the first check of all devices.";
        findings.warn(Code::SlicesNotStored, about(driver), what, advice);
    }
    let others = match devices_of_others(config, &driver.driver, &driver.node) {
        Ok(others) => others,
        Err(error) => {
            let what = format!("what other DRA drivers publish of this node is not known: {error:#}");
            return findings.inform(Code::OtherDriversUnknown, "ResourceSlices", what);
        }
    };
    for device in report.devices.iter().filter(|device| device.offer == OfferBy::Dra) {
        let published_too = |address: &str| address.eq_ignore_ascii_case(&device.address);
        if let Some(other) = others.iter().find(|other| published_too(&other.address)) {
            let what = format!("is also published by the DRA driver {} as {}", other.driver, other.name);
            let advice = "The scheduler may allocate it twice, and the second pod then waits. Let one of the drivers leave it out: here \
                          by the pools file.";
            findings.warn(Code::PublishedTwice, &device.address, what, advice);
        }
    }
}

fn about(driver: &DriverStatus) -> String {
    format!("DRA driver {}", driver.driver)
}
