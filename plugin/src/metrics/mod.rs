//! What `/metrics` shows: counters, and the facts of the publisher's latest pass.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`counters`], [`histogram`] | what has happened since the start, on atomics |
//! | [`passes`] | takes the facts of each pass from the publisher |
//! | [`exposition`] | writes all series as text |
//!
//! Without `--listen` there are no [`Metrics`], and nothing is counted. A scrape reads no file, and takes no lock for longer than
//! it takes to copy a pointer.

pub(crate) mod counters;
pub(crate) mod exposition;
mod histogram;
pub(crate) mod passes;

use crate::metrics::counters::{Counters, ResourceCounters};
use parking_lot::Mutex;
use passes::PassSource;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use vfio_plugin_policy::metrics::Pass;
use vfio_probe::prober::Observer;

/// Counters and facts, shared by the parts of the plugin.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) counters: Counters,
    source: Mutex<PassSource>,
    passes: watch::Sender<Option<Arc<Pass>>>,
}

/// The metrics of the process; none without `--listen`.
pub(crate) type MetricsHandle = Option<Arc<Metrics>>;

impl Metrics {
    /// Creates metrics without facts.
    pub(crate) fn new() -> Self {
        Self { counters: Counters::default(), source: Mutex::default(), passes: watch::Sender::new(None) }
    }

    /// Returns the facts of the latest pass. None before the first one.
    pub(crate) fn latest_pass(&self) -> Option<Arc<Pass>> {
        self.passes.borrow().clone()
    }

    /// Returns the observer that counts probes.
    pub(crate) fn probe_observer(self: &Arc<Self>) -> Observer {
        let metrics = Arc::clone(self);
        Arc::new(move |result, took| metrics.counters.probed(result, took))
    }
}

/// The counters for the Allocates of one resource.
#[derive(Clone, Debug)]
pub(crate) struct ResourceMetrics {
    metrics: Arc<Metrics>,
    counters: Arc<ResourceCounters>,
}

impl ResourceMetrics {
    /// Returns the counters of a resource. None without `--listen`.
    pub(crate) fn of(metrics: &MetricsHandle, resource: &str) -> Option<Self> {
        let metrics = metrics.clone()?;
        Some(Self { counters: metrics.counters.of(resource), metrics })
    }

    /// Counts an Allocate that began at `began` and ends now.
    pub(crate) fn allocated(&self, result: counters::AllocateResult, began: Instant) {
        self.metrics.counters.allocated(&self.counters, result, began.elapsed());
    }
}
